"""Profiles of kernels: groups, busy time and overlap of streams."""

import pytest
import torch

from distill.benchmark.kernels import Kernel, Profile, covered, group_of, outermost, overlap, profile_kernels

KERNELS = [
    Kernel("gemm", 7, 0, 10),
    Kernel("copy", 7, 12, 14),
    Kernel("flash_fwd", 9, 5, 13),
    Kernel("gemm", 9, 20, 30),
]


def test_covered_time_counts_simultaneous_kernels_once() -> None:
    assert covered(KERNELS) == 14 + 10
    assert covered([]) == 0


def test_overlap_is_the_time_in_which_two_streams_ran() -> None:
    assert overlap(KERNELS, 9) == overlap(KERNELS, 7) == 5 + 1
    assert overlap(KERNELS[:2], 7) == 0


def test_outermost_drops_nested_operators_of_the_same_thread() -> None:
    nested = [Kernel("mm", 1, 2, 3), Kernel("linear", 1, 1, 5), Kernel("t", 1, 1, 2), Kernel("add", 2, 2, 3)]
    assert [each.name for each in outermost(nested)] == ["linear", "add"]


def test_profile_reports_shares_of_groups_and_the_busy_fraction() -> None:
    found = Profile(KERNELS, 48e-6)
    assert found.busy == pytest.approx(0.5)
    assert found.groups(2) == pytest.approx({"matrix product": 20 / 30, "attention": 8 / 30})
    assert Profile([], 1.0).groups() == {}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc", "convolution"),
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NNT", "matrix product"),
        ("void at::native::vectorized_layer_norm_kernel<c10::BFloat16>", "normalisation"),
        ("void at::native::upsample_trilinear3d_out_frame<float>", "interpolation"),
        ("void at::native::unrolled_elementwise_kernel<direct_copy_kernel_cuda>", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4, GeluCUDAKernelImpl>", "elementwise"),
        ("triton_poi_fused_add_0", "compiled"),
        ("spin_kernel", "other"),
    ],
)
def test_kernels_belong_to_the_expected_group(name: str, group: str) -> None:
    assert group_of(name) == group


def test_profile_of_work_on_the_cpu_names_its_operators() -> None:
    a = torch.randn(300, 300)
    found = profile_kernels(lambda: [a @ a for _ in range(5)], torch.device("cpu"))
    assert next(iter(found.groups())) == "matrix product"
    assert 0 < found.busy <= 1
