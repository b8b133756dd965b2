// libnccl without GPUs: ranks of one machine send each other files in FAKE_GPU_MAIL, a folder in memory.
//
// Sending never waits, receiving does, and everything else is made of the two: each rank computes its result from
// what all ranks have sent, in the order of the ranks, so that all get the same bits. Memory of the host and
// messages of the wrong size are refused.
//
// Left out: streams (a collective is over when its call returns), grouped calls (each is made at once, which is safe
// as sending never waits), aborting a group.

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

struct ncclComm {
  std::string name;
  int rank, size;
  int num_splits = 0;
  std::map<int, long> sent, received;  // messages, by peer
};

namespace {

using Bytes = std::vector<char>;

std::string file_of(const ncclComm* group, int from, int to, long number) {
  const char* folder = getenv("FAKE_GPU_MAIL");
  return std::string(folder ? folder : "/dev/shm") + "/" + group->name + "." + std::to_string(from) + "." +
         std::to_string(to) + "." + std::to_string(number);
}

void send(ncclComm* group, int to, const void* data, size_t size) {
  std::string name = file_of(group, group->rank, to, group->sent[to]++), unfinished = name + "~";
  FILE* file = fopen(unfinished.c_str(), "wb");
  if (!file || fwrite(data, 1, size, file) != size) abort();
  fclose(file);
  rename(unfinished.c_str(), name.c_str());
}

void receive(ncclComm* group, int from, void* data, size_t size) {
  std::string name = file_of(group, from, group->rank, group->received[from]++);
  FILE* file;
  while (!(file = fopen(name.c_str(), "rb"))) usleep(200);
  size_t found = fread(data, 1, size, file);
  if (found != size || fgetc(file) != EOF) {
    fprintf(stderr, "fake GPU: rank %d expects %zu bytes from rank %d and gets another number\n", group->rank, size,
            from);
    abort();  // a real group would hang or write beyond its memory
  }
  fclose(file);
  unlink(name.c_str());
}

// Sends each rank r the `size` bytes at `to(r)`, and returns what all ranks have sent here, in their order.
template <class To>
Bytes exchange(ncclComm* group, size_t size, To to) {
  Bytes all(size * group->size);
  for (int peer = 0; peer < group->size; peer++)
    if (peer != group->rank) send(group, peer, to(peer), size);
  for (int peer = 0; peer < group->size; peer++) {
    char* place = all.data() + peer * size;
    if (peer == group->rank)
      memcpy(place, to(peer), size);
    else
      receive(group, peer, place, size);
  }
  return all;
}

size_t width(ncclDataType_t type) {
  switch (type) {
    case ncclInt8: case ncclUint8: case ncclFloat8e4m3: case ncclFloat8e5m2: return 1;
    case ncclFloat16: case ncclBfloat16: return 2;
    case ncclInt64: case ncclUint64: case ncclFloat64: return 8;
    default: return 4;
  }
}

struct Bfloat16 {
  unsigned short bits;
  operator float() const {
    unsigned wide = unsigned(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
  }
  Bfloat16& operator=(float value) {
    unsigned wide;
    memcpy(&wide, &value, 4);
    bits = value != value ? 0x7fc0 : (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
    return *this;
  }
};

// `all`: one vector after the other. Sums in `Wide`, rounds once.
template <class T, class Wide>
void reduce(const Bytes& all, void* result, size_t count, int num_ranks, ncclRedOp_t how) {
  auto* values = (const T*)all.data();
  for (size_t i = 0; i < count; i++) {
    Wide total = values[i];
    for (int rank = 1; rank < num_ranks; rank++) {
      Wide value = values[rank * count + i];
      total = how == ncclMax ? std::max(total, value) : how == ncclMin ? std::min(total, value)
            : how == ncclProd ? total * value : total + value;
    }
    ((T*)result)[i] = how == ncclAvg ? total / num_ranks : total;
  }
}

void reduce(const Bytes& all, void* result, size_t count, int num_ranks, ncclDataType_t type, ncclRedOp_t how) {
  if (how > ncclAvg) {
    fprintf(stderr, "fake GPU: no reduction of kind %d\n", how);
    abort();
  }
  switch (type) {
    case ncclFloat32: return reduce<float, float>(all, result, count, num_ranks, how);
    case ncclFloat64: return reduce<double, double>(all, result, count, num_ranks, how);
    case ncclFloat16: return reduce<_Float16, float>(all, result, count, num_ranks, how);
    case ncclBfloat16: return reduce<Bfloat16, float>(all, result, count, num_ranks, how);
    case ncclInt32: return reduce<int, int>(all, result, count, num_ranks, how);
    case ncclInt64: return reduce<long, long>(all, result, count, num_ranks, how);
    case ncclUint8: return reduce<unsigned char, unsigned char>(all, result, count, num_ranks, how);
    case ncclInt8: return reduce<signed char, signed char>(all, result, count, num_ranks, how);
    default: fprintf(stderr, "fake GPU: no sum of type %d\n", type); abort();
  }
}

bool is_on_device(const void* address) {
  cudaPointerAttributes found;
  cudaPointerGetAttributes(&found, address);
  return found.type == cudaMemoryTypeDevice;
}

ncclResult_t refuse_host_memory(const void* in, const void* out, size_t count) {
  return !count || (is_on_device(in) && is_on_device(out)) ? ncclSuccess : ncclInvalidArgument;
}

}  // namespace

#define REFUSE_HOST_MEMORY(in, out, count) \
  if (auto error = refuse_host_memory(in, out, count)) return error

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t error) { return error == ncclInvalidArgument ? "memory of the host" : ""; }
const char* ncclGetLastError(ncclComm_t) { return ""; }

// ---- groups ----

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int number = 0;
  *id = {};
  snprintf(id->internal, sizeof id->internal, "group-%d-%d", getpid(), number++);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* group, int size, ncclUniqueId id, int rank, ncclConfig_t*) {
  *group = new ncclComm{id.internal, rank, size};
  return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t* group, int size, ncclUniqueId id, int rank) {
  return ncclCommInitRankConfig(group, size, id, rank, nullptr);
}
ncclResult_t ncclCommInitRankScalable(ncclComm_t* group, int size, int rank, int, ncclUniqueId* id, ncclConfig_t*) {
  return ncclCommInitRankConfig(group, size, *id, rank, nullptr);
}
ncclResult_t ncclCommSplit(ncclComm_t group, int color, int key, ncclComm_t* made, ncclConfig_t*) {
  int own[] = {color, key};
  Bytes all = exchange(group, sizeof own, [&](int) { return own; });
  std::vector<std::pair<int, int>> members;  // key, rank in the whole group
  for (int rank = 0; rank < group->size; rank++) {
    auto* theirs = (const int*)all.data() + 2 * rank;
    if (theirs[0] == color) members.push_back({theirs[1], rank});
  }
  std::sort(members.begin(), members.end());
  std::string name = group->name + "-" + std::to_string(group->num_splits++) + "-" + std::to_string(color);
  *made = nullptr;
  for (int rank = 0; color != NCCL_SPLIT_NOCOLOR && rank < int(members.size()); rank++)
    if (members[rank].second == group->rank) *made = new ncclComm{name, rank, int(members.size())};
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* error) { return *error = ncclSuccess; }
ncclResult_t ncclCommCount(const ncclComm_t group, int* size) {
  *size = group->size;
  return ncclSuccess;
}
ncclResult_t ncclCommUserRank(const ncclComm_t group, int* rank) {
  *rank = group->rank;
  return ncclSuccess;
}

// ---- messages ----

ncclResult_t ncclSend(const void* in, size_t count, ncclDataType_t type, int peer, ncclComm_t group, cudaStream_t) {
  REFUSE_HOST_MEMORY(in, in, count);
  send(group, peer, in, count * width(type));
  return ncclSuccess;
}
ncclResult_t ncclRecv(void* out, size_t count, ncclDataType_t type, int peer, ncclComm_t group, cudaStream_t) {
  REFUSE_HOST_MEMORY(out, out, count);
  receive(group, peer, out, count * width(type));
  return ncclSuccess;
}
ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t how,
                           ncclComm_t group, cudaStream_t) {
  REFUSE_HOST_MEMORY(in, out, count);
  Bytes all = exchange(group, count * width(type), [&](int) { return in; });
  reduce(all, out, count, group->size, type, how);
  return ncclSuccess;
}
ncclResult_t ncclReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t how, int root,
                        ncclComm_t group, cudaStream_t) {
  REFUSE_HOST_MEMORY(in, group->rank == root ? out : in, count);
  Bytes all = exchange(group, count * width(type), [&](int) { return in; });
  if (group->rank == root) reduce(all, out, count, group->size, type, how);
  return ncclSuccess;
}
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t how,
                               ncclComm_t group, cudaStream_t) {
  REFUSE_HOST_MEMORY(in, out, count);
  size_t size = count * width(type);
  Bytes all = exchange(group, size, [&](int peer) { return (const char*)in + peer * size; });
  reduce(all, out, count, group->size, type, how);
  return ncclSuccess;
}
ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t group,
                           cudaStream_t) {
  REFUSE_HOST_MEMORY(in, out, count);
  Bytes all = exchange(group, count * width(type), [&](int) { return in; });
  memcpy(out, all.data(), all.size());
  return ncclSuccess;
}
ncclResult_t ncclAlltoAll(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t group,
                          cudaStream_t) {
  REFUSE_HOST_MEMORY(in, out, count);
  size_t size = count * width(type);
  Bytes all = exchange(group, size, [&](int peer) { return (const char*)in + peer * size; });
  memcpy(out, all.data(), all.size());
  return ncclSuccess;
}
ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t group, cudaStream_t) {
  REFUSE_HOST_MEMORY(group->rank == root ? in : out, out, count);
  size_t size = count * width(type);
  if (group->rank != root) {
    receive(group, root, out, size);
    return ncclSuccess;
  }
  for (int peer = 0; peer < group->size; peer++)
    if (peer != root) send(group, peer, in, size);
  memmove(out, in, size);
  return ncclSuccess;
}

ncclResult_t ncclBcast(void* data, size_t count, ncclDataType_t type, int root, ncclComm_t group, cudaStream_t stream) {
  return ncclBroadcast(data, data, count, type, root, group, stream);
}

}  // extern "C"
