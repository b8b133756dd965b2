// Memory of the fake GPU, and pinned memory: pages of this process, and a list that tells them apart. A device has
// TOTAL_MEMORY; nothing is shared between processes.

#include "runtime.h"

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>

namespace {

constexpr size_t PAGE = 4096;

class Memory {
 public:
  void* take(size_t size, bool pinned) {
    std::lock_guard<std::mutex> guard(lock_);
    size = (size + PAGE) / PAGE * PAGE;
    if (!pinned && in_use_ + size > TOTAL_MEMORY) return nullptr;
    void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) return nullptr;
    regions_[(char*)address] = {size, pinned};
    if (!pinned) in_use_ += size;
    return address;
  }

  void release(void* address) {
    std::lock_guard<std::mutex> guard(lock_);
    auto found = regions_.find((char*)address);
    if (found == regions_.end()) return;
    munmap(address, found->second.size);
    if (!found->second.pinned) in_use_ -= found->second.size;
    regions_.erase(found);
  }

  cudaMemoryType type_of(const void* address) {
    std::lock_guard<std::mutex> guard(lock_);
    auto next = regions_.upper_bound((char*)address);
    if (next == regions_.begin()) return cudaMemoryTypeUnregistered;
    auto [begin, region] = *std::prev(next);
    if ((char*)address >= begin + region.size) return cudaMemoryTypeUnregistered;
    return region.pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  }

  size_t in_use() { return in_use_; }

 private:
  struct Region {
    size_t size;
    bool pinned;
  };
  std::mutex lock_;
  std::map<char*, Region> regions_;
  std::atomic<size_t> in_use_{0};
};

Memory& memory() {
  static auto* only = new Memory;  // never destroyed: libraries free memory while the process ends
  return *only;
}

cudaError_t copy(void* to, const void* from, size_t size) {
  memmove(to, from, size);
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** address, size_t size) {
  *address = memory().take(size, false);
  return *address ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* address) {
  memory().release(address);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** address, size_t size, unsigned) {
  *address = memory().take(size, true);
  return *address ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* address) { return cudaFree(address); }
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *total = TOTAL_MEMORY;
  *available = TOTAL_MEMORY - memory().in_use();
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* address) {
  *found = {};
  found->type = memory().type_of(address);
  if (found->type != cudaMemoryTypeUnregistered) found->devicePointer = (void*)address;
  if (found->type != cudaMemoryTypeDevice) found->hostPointer = (void*)address;
  cudaGetDevice(&found->device);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  cudaStreamSynchronize(nullptr);
  return copy(to, from, size);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
  bool waits = memory().type_of(to) == cudaMemoryTypeUnregistered;  // pageable memory, as on a GPU
  if (waits) cudaStreamSynchronize(stream);
  return copy(to, from, size);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, cudaStream_t) {
  return copy(to, from, size);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t) {
  for (size_t row = 0; row < height; row++) copy((char*)to + row * to_pitch, (char*)from + row * from_pitch, width);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* address, int value, size_t size) {
  memset(address, value, size);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* address, int value, size_t size, cudaStream_t) {
  return cudaMemset(address, value, size);
}

}  // extern "C"
