"""Machines as files: those that ship, your own, and what is refused in one line."""

import pytest
import yaml

from model.errors import UserError
from pretrain.cost.time.machine import SHIPPED, load_machine, machine_here, machine_names

GOOD = {
    "about": "mine",
    "error_percent": 10,
    "error_source": "a guess",
    "device": "cpu",
    "ranks": 2,
    "arithmetic": {"fp32": {"products": [[64, 64, 64, 0.1]], "attention": [[64, 32, 0.1]]}},
    "gb_per_second": 10,
    "host": {"launch_us": 5},
    "within": {"latency_us": 50, "gb_per_second": 1},
}


@pytest.fixture
def machines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "machines").mkdir()
    return tmp_path / "machines"


@pytest.mark.parametrize("name", ["a100-80gb", "b200", "h100", "h200"])
def test_those_that_ship_say_that_nobody_has_measured_them_and_where_numbers_are_from(name):
    machine = load_machine(name)
    assert not machine.measured and machine.price is None and machine.error_percent >= 25
    text = (SHIPPED / f"{name}.yaml").read_text("utf-8")
    numbers = [line for line in text.splitlines() if ":" in line and line.split("#")[0].rstrip()[-1].isdigit()]
    assert len(numbers) > 10
    unsourced = [line for line in numbers if "#" not in line and not line.startswith(("error_percent", "ranks"))]
    assert unsourced == []


def test_your_own_comes_first_and_by_path(machines):
    assert "mine" not in machine_names()
    (machines / "h100.yaml").write_text(yaml.safe_dump(GOOD), "utf-8")
    assert load_machine("h100").about == load_machine("machines/h100.yaml").about == "mine"
    assert machine_names().count("h100") == 1
    assert machine_here("this", on_cpu=True) is None
    (machines / "here.yaml").write_text(yaml.safe_dump(GOOD | {"host_name": "this"}), "utf-8")
    (machines / "broken.yaml").write_text("no: machine", "utf-8")
    (machines / "gone.yaml").symlink_to("nowhere.yaml")
    assert machine_here("this", on_cpu=False) is None
    here = machine_here("this", on_cpu=True)
    assert here is not None and here.name == "here"


REFUSED = {
    "a typo": ({"gb_per_secnd": 5}, "unknown key gb_per_secnd (did you mean 'gb_per_second'?)"),
    "no rate": ({"arithmetic": {"fp32": {"products": [], "attention": [[64, 32, 1]]}}}, "arithmetic.fp32.products"),
    "three numbers": ({"arithmetic": {"fp32": {"products": [[1, 2, 3]], "attention": []}}}, "products.0.3"),
    "no attention": ({"arithmetic": {"fp32": {"products": [[1, 2, 3, 4]]}}}, "fp32 needs a rate of attention"),
    "below 0": ({"gb_per_second": -1}, "gb_per_second"),
    "endless": ({"gb_per_second": float("inf")}, "gb_per_second"),
    "no words": ({"about": None}, "about"),
}


@pytest.mark.parametrize(("change", "named"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_file_is_refused_in_one_line_that_names_the_key(machines, change, named):
    (machines / "mine.yaml").write_text(yaml.safe_dump(GOOD | change), "utf-8")
    with pytest.raises(UserError) as error:
        load_machine("mine")
    assert str(error.value).startswith("machines/mine.yaml: ") and named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "said"), [("- 1\n", "describes no machine"), ("a: [\n", "line 2")])
def test_what_is_no_mapping_is_refused(machines, text, said):
    (machines / "mine.yaml").write_text(text, "utf-8")
    with pytest.raises(UserError, match=said):
        load_machine("mine")


def test_a_precision_that_was_not_measured_is_refused(machines):
    (machines / "mine.yaml").write_text(yaml.safe_dump(GOOD), "utf-8")
    with pytest.raises(UserError, match="machine mine has no rates in bf16, only in fp32"):
        load_machine("mine").of("bf16")
    with pytest.raises(UserError, match="machine a100-80gb has no rates in fp8, only in bf16, fp32: leave fp8 out, or"):
        load_machine("a100-80gb").of("fp8")
