// libcudart without a GPU, in three files: kernels and devices (this one), memory.cpp and streams.cpp.
//
// Device memory is host memory, copies happen at once, kernels do nothing. What a real runtime refuses is refused
// here, too: a device that does not exist, memory beyond the limit, an invalid launch, the time between events that
// the host has not waited for.
//
// Left out: CUDA graphs, memory pools, textures, memory shared between processes. Nothing checks the order of work
// on different streams: work that forgets to wait for another stream finds it done. Functions that only have to
// return success are not listed here; build.py generates them.

#include "runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

namespace {

int num_devices() {
  const char* given = getenv("FAKE_GPUS");
  return given ? atoi(given) : 1;
}

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

// ---- kernels ----

std::map<const void*, std::string>& kernels() {
  static auto* names = new std::map<const void*, std::string>;
  return *names;
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared_memory) {
  size_t blocks = size_t(grid.x) * grid.y * grid.z, threads = size_t(block.x) * block.y * block.z;
  if (blocks && threads && threads <= 1024 && grid.y < 65536 && grid.z < 65536 && shared_memory <= 227 << 10)
    return cudaSuccess;
  fprintf(stderr, "fake GPU: %s cannot be launched over (%u, %u, %u) blocks of (%u, %u, %u)\n",
          kernels()[kernel].c_str(), grid.x, grid.y, grid.z, block.x, block.y, block.z);
  return fail(cudaErrorInvalidConfiguration);
}

// ---- what torch asks the driver for, through the runtime ----

int succeed(...) { return 0; }

CUresult context_state(CUdevice, unsigned* flags, int* is_active) {
  *flags = 0;
  *is_active = 1;
  return CUDA_SUCCESS;
}

}  // namespace

cudaError_t fail(cudaError_t error) { return last_error = error; }

extern "C" {

// ---- kernels ----

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFunction(void**, const char* kernel, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  kernels()[kernel] = name;
}
char __cudaInitModule(void**) { return 1; }

struct Configuration {
  dim3 grid, block;
  size_t shared_memory;
  cudaStream_t stream;
};
static thread_local Configuration pushed;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_memory, cudaStream_t stream) {
  pushed = {grid, block, shared_memory, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_memory, void* stream) {
  *grid = pushed.grid;
  *block = pushed.block;
  *shared_memory = pushed.shared_memory;
  *(cudaStream_t*)stream = pushed.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* entry) {
  *kernel = (cudaKernel_t)entry;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**, size_t shared_memory, cudaStream_t) {
  return launch(kernel, grid, block, shared_memory);
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void**, size_t shared_memory, cudaStream_t) {
  return launch(kernel, grid, block, shared_memory);
}
cudaError_t cudaLaunchCooperativeKernel(const void* kernel, dim3 grid, dim3 block, void**, size_t shared_memory,
                                        cudaStream_t) {
  return launch(kernel, grid, block, shared_memory);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* how, const void* kernel, void**) {
  return launch(kernel, how->gridDim, how->blockDim, how->dynamicSmemBytes);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
  function(data);
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
  *found = {};
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 32;
  found->ptxVersion = found->binaryVersion = 90;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  *blocks = 2;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  *blocks = 2;
  return cudaSuccess;
}

// ---- devices ----

cudaError_t cudaGetDeviceCount(int* count) {
  *count = num_devices();
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= num_devices()) return fail(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int) {  // those of an H200, but for its memory
  *found = {};
  strcpy(found->name, "fake GPU");
  found->totalGlobalMem = TOTAL_MEMORY;
  found->major = 9;
  found->multiProcessorCount = 132;
  found->warpSize = 32;
  found->regsPerBlock = found->regsPerMultiprocessor = 65536;
  found->maxThreadsPerBlock = 1024;
  found->maxThreadsPerMultiProcessor = 2048;
  found->maxBlocksPerMultiProcessor = 32;
  found->sharedMemPerBlock = 48 << 10;
  found->sharedMemPerBlockOptin = 227 << 10;
  found->sharedMemPerMultiprocessor = 228 << 10;
  found->l2CacheSize = 60 << 20;
  found->totalConstMem = 64 << 10;
  found->textureAlignment = 512;
  found->unifiedAddressing = found->concurrentKernels = found->memoryPoolsSupported = 1;
  const int block[] = {1024, 1024, 64}, grid[] = {2147483647, 65535, 65535};
  std::copy(block, block + 3, found->maxThreadsDim);
  std::copy(grid, grid + 3, found->maxGridSize);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp found;
  cudaGetDeviceProperties(&found, device);
  const std::map<int, int> values = {
      {cudaDevAttrComputeCapabilityMajor, found.major},
      {cudaDevAttrMultiProcessorCount, found.multiProcessorCount},
      {cudaDevAttrWarpSize, found.warpSize},
      {cudaDevAttrMaxThreadsPerBlock, found.maxThreadsPerBlock},
      {cudaDevAttrMaxThreadsPerMultiProcessor, found.maxThreadsPerMultiProcessor},
      {cudaDevAttrMaxSharedMemoryPerBlock, int(found.sharedMemPerBlock)},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, int(found.sharedMemPerBlockOptin)},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, int(found.sharedMemPerMultiprocessor)},
      {cudaDevAttrMaxGridDimX, found.maxGridSize[0]},
      {cudaDevAttrMaxGridDimY, found.maxGridSize[1]},
      {cudaDevAttrMaxGridDimZ, found.maxGridSize[2]},
      {cudaDevAttrUnifiedAddressing, 1},
  };
  auto wanted = values.find(attribute);
  *value = wanted == values.end() ? 0 : wanted->second;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* name, int size, int device) {
  snprintf(name, size, "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaGetLastError() {
  auto error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t) { return "cudaError"; }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNotReady: return "device not ready";
    default: return "error of the fake GPU";
  }
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  *function = strcmp(name, "cuDevicePrimaryCtxGetState") ? (void*)succeed : (void*)context_state;
  if (found) *found = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

}  // extern "C"
