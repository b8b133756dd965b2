// Streams and events of the fake GPU. Work is done when it is submitted; what is tracked is which events the host
// has waited for, so that it cannot read a time too early. One stream never waits for another.

#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <vector>

namespace {

struct Stream {
  long recorded = 0;             // events so far
  std::map<Stream*, long> seen;  // events of other streams that this one has waited for
};

struct Event {
  Stream* stream = nullptr;
  long number = 0;
  std::map<Stream*, long> seen;
  std::chrono::steady_clock::time_point time;
};

std::mutex order;
std::map<Stream*, long> known;  // events of each stream that the host has waited for
Stream default_stream;
std::vector<Stream*> streams{&default_stream};

Stream* stream_of(cudaStream_t stream) {
  return (size_t)stream <= 2 ? &default_stream : (Stream*)stream;  // 1 and 2 are names of default streams
}

void learn(std::map<Stream*, long>& into, Stream* stream, long number, const std::map<Stream*, long>& seen) {
  into[stream] = std::max(into[stream], number);
  for (auto [other, of_other] : seen) into[other] = std::max(into[other], of_other);
}

void wait_for(Stream* stream) { learn(known, stream, stream->recorded, stream->seen); }

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  std::lock_guard<std::mutex> guard(order);
  streams.push_back(new Stream);  // never deleted: torch keeps its streams, too
  *stream = (cudaStream_t)streams.back();
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreateWithPriority(stream, 0, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  std::lock_guard<std::mutex> guard(order);
  for (auto* stream : streams) wait_for(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  std::lock_guard<std::mutex> guard(order);
  wait_for(stream_of(stream));
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  std::lock_guard<std::mutex> guard(order);
  auto* of = (Event*)event;
  if (of->stream) learn(stream_of(stream)->seen, of->stream, of->number, of->seen);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t*, const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
  *status = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = (cudaEvent_t) new Event;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete (Event*)event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  std::lock_guard<std::mutex> guard(order);
  auto* on = stream_of(stream);
  *(Event*)event = {on, ++on->recorded, on->seen, std::chrono::steady_clock::now()};
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::lock_guard<std::mutex> guard(order);
  auto* of = (Event*)event;
  if (of->stream) learn(known, of->stream, of->number, of->seen);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }  // it is always over
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  std::lock_guard<std::mutex> guard(order);
  for (auto* event : {(Event*)begin, (Event*)end}) {
    if (!event->stream) return fail(cudaErrorInvalidResourceHandle);
    if (known[event->stream] < event->number) return fail(cudaErrorNotReady);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(((Event*)end)->time - ((Event*)begin)->time).count();
  return cudaSuccess;
}

}  // extern "C"
