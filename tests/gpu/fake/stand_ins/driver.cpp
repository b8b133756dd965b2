// libcuda, as far as torch asks for it when it starts. Left out is what Triton needs to load its kernels: nothing
// can be compiled for a fake GPU.

#include <cuda.h>

extern "C" {

CUresult cuCtxGetCurrent(CUcontext* context) {
  static int only;
  *context = (CUcontext)&only;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* is_active) {
  *flags = 0;
  *is_active = 1;
  return CUDA_SUCCESS;
}

}  // extern "C"
