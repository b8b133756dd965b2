"""What `profile` prints fits a console of 80 columns and of 120, with every number whole."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from pretrain.profile.against import Row
from pretrain.profile.breakdown import Breakdown
from pretrain.profile.measurement import Measurement
from pretrain.profile.table import table_of
from pretrain.profile.tables import breakdown_table, measurement_table
from pretrain.settings.tables import WholeTable

BREAKDOWN = Breakdown(
    phases={"data": 1.5, "forward": 10_400.0, "backward": 20_800.0, "optimizer": 312.5, "hooks": 0.2},
    modules={"attention": 4_100.0, "feedforward": 5_900.0},
    kernels={"autograd::engine::evaluate_function: AddmmBackward0": 9_876.5},
    step=31_600.0,
    work={"attention": {"flops": 4e12, "bytes": 2e10}, "feedforward": {"flops": 8e12, "bytes": 3e10}},
)
MEASURED = Measurement(
    ranks=128,
    threads=1,
    tensor_parallel=1,
    zero_stage=1,
    micro_batch=512,
    accumulation=1,
    sequence=512,
    precision="bf16",
    shape="24 layers",
    step_seconds=[31.6, 31.7, 33.3],
    tokens_per_step=33_554_432,
    useful_flops_per_step=6.8e16,
    peak_bytes=78 * 2**30,
    predicted_bytes=77 * 2**30,
    breakdown=BREAKDOWN,
)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("table", "numbers"),
    [
        (breakdown_table(MEASURED), ["31600.00", "20800.00", "9876.50", "1,355.9"]),
        (measurement_table({"micro_batch=512, zero=3, tp=8": MEASURED}, 9e14), ["31700.0", "1,058,499", "79,872"]),
        (table_of([Row("varied lengths, against it out of the box", 8, 9.53, 9.51, 9.54)]), ["8.00", "9.51..9.54"]),
    ],
)
def test_no_number_is_shortened(table: WholeTable, numbers: list[str], width: int):
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    shown = out.getvalue()
    assert "…" not in shown and max(map(len, shown.splitlines())) <= width
    assert all(number in shown for number in numbers), shown


def test_a_limit_that_was_not_measured_has_no_column():
    assert "of the\nlimit" not in [column.header for column in measurement_table({"zero=1": MEASURED}, None).columns]


def test_configurations_stand_below_each_other_on_a_narrow_console():
    out = io.StringIO()
    measured = replace(MEASURED, step_seconds=[1.5851, 1.585, 1.67], tokens_per_step=1_677_721)
    rows = {f"micro_batch {rows}": measured for rows in (256, 512)}
    Console(file=out, width=80).print(measurement_table(rows, None))
    lines = [line for line in out.getvalue().splitlines() if "1,058,432" in line]
    assert [line.split()[:2] for line in lines] == [["micro_batch", "256"], ["micro_batch", "512"]]
    assert all("79,872" in line and "78,848" in line for line in lines)


def test_long_names_of_kernels_leave_room_for_the_numbers():
    kernels = {f"void at::native::vectorized_elementwise_kernel<4, at::native::{of}<float>>(int)": 2.0 for of in "ab"}
    kernels |= {"Memcpy [HtoD]": 3.0}
    measured = replace(MEASURED, breakdown=replace(BREAKDOWN, kernels=kernels))
    out = io.StringIO()
    Console(file=out, width=80).print(breakdown_table(measured))
    (merged,) = (line for line in out.getvalue().splitlines() if "vectorized" in line)
    assert "  vectorized_elementwise_kernel<4, ... " in merged and " 4.00 " in merged
    assert "  Memcpy [HtoD] " in out.getvalue()
