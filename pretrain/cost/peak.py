"""What devices can do at best, by their makers' data sheets."""

PEAK_TFLOPS = {"V100": 125, "A100": 312, "H100 PCIe": 756, "H100": 989, "H200": 989}
"""Dense matrix products in fp16 or bf16 (V100: fp16), by a part of the name that CUDA gives; the first that fits."""


def peak_flops_per_second(device_name: str, precision: str) -> float | None:
    """None where it is not known: other devices, and fp32."""
    if precision == "fp32":
        return None
    return next((1e12 * peak for name, peak in PEAK_TFLOPS.items() if name in device_name), None)
