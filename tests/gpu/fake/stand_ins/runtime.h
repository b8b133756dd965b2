// What the files of the stand-in for libcudart share.

#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

constexpr size_t TOTAL_MEMORY = size_t(4) << 30;  // of a device: runs are tiny, and the machine has other work

cudaError_t fail(cudaError_t error);  // remembers it for cudaGetLastError
