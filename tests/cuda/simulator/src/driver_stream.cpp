// Streams and events, and in which order work runs.
//
// A stream is a queue. An op may run when all before it in its stream are done, and the ops of other
// streams that it waits for. Without deferred mode everything runs when it is submitted. In deferred
// mode nothing runs before somebody waits for it, and then in an order that the rules allow, chosen
// by the setting `seed`:
//
//    0   only what has to run for the wait to end: work that nobody ordered before it stays undone,
//        so that a missing wait for an event shows as poison;
//   -1   all that may run on other streams first: work that should have been ordered after it is
//        done too early, so that memory which is overwritten or freed too soon shows;
//    n   a random order.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "driver.h"

static double now() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

Stream* stream_of(CUstream handle) {
  const auto number = reinterpret_cast<uintptr_t>(handle);
  if (number > 2) {
    const auto found = driver().streams.find(handle);
    return found == driver().streams.end() || handle->destroyed ? nullptr : handle;
  }
  if (current_device() < 0) return nullptr;
  Context& c = driver().contexts[current_device()];
  return number == 2 ? &c.per_thread : &c.legacy;
}

static std::vector<Stream*> streams_of(int device) {
  std::vector<Stream*> all;
  for (Context& c : driver().contexts) {
    if (device >= 0 && c.device != device) continue;
    all.push_back(&c.legacy);
    all.push_back(&c.per_thread);
  }
  for (Stream* s : driver().streams)
    if (device < 0 || s->device == device) all.push_back(s);
  std::sort(all.begin(), all.end(), [](Stream* a, Stream* b) { return a->id < b->id; });
  return all;
}

// -- running --------------------------------------------------------------------------------------

static bool may_run(const Op& op) {
  for (const OpPtr& a : op.after)
    if (!a->done) return false;
  return true;
}

static void run_first(Stream* s) {
  const OpPtr op = s->queue.front();
  s->queue.pop_front();
  op->work();
  op->done = true;
  op->work = nullptr;
  op->after.clear();
  if (s->destroyed && s->queue.empty()) {
    driver().streams.erase(s);
    delete s;
  }
}

static void run_needed(const OpPtr& op) {
  while (!op->done) {
    const OpPtr first = op->stream->queue.front();
    const std::vector<OpPtr> after = first->after;
    for (const OpPtr& a : after) run_needed(a);
    run_first(op->stream);
  }
}

static std::vector<Stream*> runnable(const Stream* not_this) {
  std::vector<Stream*> found;
  for (Stream* s : streams_of(-1))
    if (s != not_this && !s->queue.empty() && may_run(*s->queue.front())) found.push_back(s);
  return found;
}

bool step() {
  const std::vector<Stream*> ready = runnable(nullptr);
  if (ready.empty()) return false;
  run_first(ready[driver().random() % ready.size()]);
  return true;
}

void finish(const OpPtr& op) {
  if (!op || op->done) return;
  if (driver().set.seed == 0) {
    run_needed(op);
  } else if (driver().set.seed > 0) {
    while (!op->done) step();
  } else {
    while (!op->done) {
      const std::vector<Stream*> others = runnable(op->stream);
      run_first(others.empty() ? op->stream : others.back());
    }
  }
}

void finish_stream(Stream* stream) { finish(stream->last); }

void finish_device(int device) {
  for (bool busy = true; busy;) {
    busy = false;
    std::vector<Stream*> all = streams_of(device);
    if (driver().set.seed > 0) std::shuffle(all.begin(), all.end(), driver().random);
    for (Stream* s : all) {
      if (s->queue.empty()) continue;
      finish(s->last);
      busy = true;
      break;  // streams may be gone
    }
  }
}

// What the legacy stream orders: it waits for all blocking streams, and they wait for it.
static void default_rules(Stream* s, Op& op) {
  Context& c = driver().contexts[s->device];
  const auto wait_for = [&](Stream& other) {
    if (other.last && !other.last->done) op.after.push_back(other.last);
  };
  if (s->legacy) {
    wait_for(c.per_thread);
    for (Stream* other : driver().streams)
      if (other->device == s->device && !(other->flags & CU_STREAM_NON_BLOCKING)) wait_for(*other);
  } else if (!(s->flags & CU_STREAM_NON_BLOCKING)) {
    wait_for(c.legacy);
  }
}

static OpPtr enqueue(Stream* stream, Work work, OpPtr after = nullptr) {
  auto op = std::make_shared<Op>();
  op->stream = stream;
  op->work = std::move(work);
  default_rules(stream, *op);
  if (after && !after->done) op->after.push_back(std::move(after));
  stream->queue.push_back(op);
  return stream->last = op;
}

Node* submit(Stream* stream, int type, Work work, std::shared_ptr<Launch> launch) {
  if (stream->capture) {
    Graph* g = stream->capture->graph;
    g->nodes.push_back(std::make_unique<Node>());
    Node* node = g->nodes.back().get();
    node->type = type;
    node->work = std::move(work);
    node->after = stream->tail;
    node->launch = std::move(launch);
    stream->tail = {node};
    return node;
  }
  if (driver().set.deferred) {
    enqueue(stream, std::move(work));
  } else {
    work();
  }
  return nullptr;
}

// -- streams --------------------------------------------------------------------------------------

API cuStreamCreateWithPriority(CUstream* out, unsigned flags, int priority) {
  ENTER NEED_CONTEXT
  auto* s = new Stream;
  s->device = current_device();
  s->flags = flags;
  s->priority = priority;
  s->id = ++driver().next_id;
  driver().streams.insert(s);
  *out = s;
  return CUDA_SUCCESS;
}

API cuStreamCreate(CUstream* out, unsigned flags) {
  return cuStreamCreateWithPriority(out, flags, 0);
}

API cuStreamDestroy_v2(CUstream handle) {
  ENTER NEED_STREAM(s, handle)
  NEED(driver().streams.count(s), CUDA_ERROR_INVALID_HANDLE)
  if (s->queue.empty()) {
    driver().streams.erase(s);
    delete s;
  } else {
    s->destroyed = true;  // its work is still done, and then it goes
  }
  return CUDA_SUCCESS;
}

API cuStreamSynchronize(CUstream handle) {
  ENTER NEED_STREAM(s, handle)
  if (s->capture) {
    s->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  if (const CUresult refused = refuse_while_capturing()) return refused;
  finish_stream(s);
  if (s->legacy)  // it has nothing of its own to wait for, but still waits for the others
    for (Stream* other : streams_of(s->device))
      if (!(other->flags & CU_STREAM_NON_BLOCKING)) finish_stream(other);
  return driver().sticky;
}

// Asking makes progress: a program that asks until something is done must come to an end.
static CUresult query(const OpPtr& op) {
  if (!op || op->done) return driver().sticky;
  step();
  return op->done ? driver().sticky : CUDA_ERROR_NOT_READY;
}

API cuStreamQuery(CUstream handle) {
  ENTER NEED_STREAM(s, handle)
  NEED(!s->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
  return query(s->last);
}

API cuStreamGetFlags(CUstream handle, unsigned* flags) {
  ENTER NEED_STREAM(s, handle)
  *flags = s->flags;
  return CUDA_SUCCESS;
}

API cuStreamGetPriority(CUstream handle, int* priority) {
  ENTER NEED_STREAM(s, handle)
  *priority = s->priority;
  return CUDA_SUCCESS;
}

API cuStreamGetId(CUstream handle, unsigned long long* id) {
  ENTER NEED_STREAM(s, handle)
  *id = s->id;
  return CUDA_SUCCESS;
}

API cuStreamGetCtx(CUstream handle, CUcontext* context) {
  ENTER NEED_STREAM(s, handle)
  *context = &driver().contexts[s->device];
  return CUDA_SUCCESS;
}

API cuStreamGetCtx_v2(CUstream handle, CUcontext* context, void** green) {
  if (green) *green = nullptr;
  return cuStreamGetCtx(handle, context);
}

API cuStreamGetDevice(CUstream handle, CUdevice* device) {
  ENTER NEED_STREAM(s, handle)
  *device = s->device;
  return CUDA_SUCCESS;
}

API cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
  ENTER NEED_STREAM(s, handle)
  submit(s, CU_GRAPH_NODE_TYPE_HOST, [=] { function(data); });
  return CUDA_SUCCESS;
}

API cuLaunchHostFunc_v2(CUstream handle, CUhostFn function, void* data, unsigned) {
  return cuLaunchHostFunc(handle, function, data);
}

// For simulated libraries: `function(data)` runs in the order of the stream, once, or at every
// launch of a graph; `data` is then deleted by `destroy`.
EXPORT CUresult simulator_submit(CUstream handle, CUhostFn function, void* data,
                                 CUhostFn destroy) {
  ENTER NEED_STREAM(s, handle)
  const std::shared_ptr<void> owner(data, destroy);
  submit(s, CU_GRAPH_NODE_TYPE_KERNEL, [=] { function(owner.get()); });
  return CUDA_SUCCESS;
}

// -- events ---------------------------------------------------------------------------------------

API cuEventCreate(CUevent* out, unsigned flags) {
  ENTER NEED_CONTEXT
  *out = new Event{flags, nullptr};
  driver().events.insert(*out);
  return CUDA_SUCCESS;
}

API cuEventDestroy_v2(CUevent event) {
  ENTER NEED(driver().events.erase(event), CUDA_ERROR_INVALID_HANDLE)
  delete event;
  return CUDA_SUCCESS;
}

API cuEventRecordWithFlags(CUevent event, CUstream handle, unsigned flags) {
  ENTER NEED(driver().events.count(event), CUDA_ERROR_INVALID_HANDLE)
  NEED_STREAM(s, handle)
  const auto record = std::make_shared<Record>();
  event->record = record;
  if (s->capture && !(flags & CU_EVENT_RECORD_EXTERNAL)) {
    record->capture = s->capture;
    record->nodes = s->tail;
  } else if (s->capture) {
    submit(s, CU_GRAPH_NODE_TYPE_EVENT_RECORD, [record] { record->milliseconds = now(); });
  } else if (driver().set.deferred) {
    record->op = enqueue(s, [record] { record->milliseconds = now(); });
  } else {
    record->milliseconds = now();
  }
  return CUDA_SUCCESS;
}

API cuEventRecord(CUevent event, CUstream handle) {
  return cuEventRecordWithFlags(event, handle, 0);
}

API cuEventQuery(CUevent event) {
  ENTER NEED(driver().events.count(event), CUDA_ERROR_INVALID_HANDLE)
  if (!event->record) return CUDA_SUCCESS;
  NEED(!event->record->capture, CUDA_ERROR_CAPTURED_EVENT)
  return query(event->record->op);
}

API cuEventSynchronize(CUevent event) {
  ENTER NEED(driver().events.count(event), CUDA_ERROR_INVALID_HANDLE)
  if (!event->record) return CUDA_SUCCESS;
  NEED(!event->record->capture, CUDA_ERROR_CAPTURED_EVENT)
  finish(event->record->op);
  return driver().sticky;
}

API cuEventElapsedTime_v2(float* milliseconds, CUevent first, CUevent second) {
  ENTER
  NEED(driver().events.count(first) && driver().events.count(second), CUDA_ERROR_INVALID_HANDLE)
  for (const Event* e : {first, second}) {
    NEED(e->record && !(e->flags & CU_EVENT_DISABLE_TIMING), CUDA_ERROR_INVALID_HANDLE)
    NEED(!e->record->op || e->record->op->done, CUDA_ERROR_NOT_READY)
  }
  *milliseconds = static_cast<float>(second->record->milliseconds - first->record->milliseconds);
  return CUDA_SUCCESS;
}

API cuEventElapsedTime(float* milliseconds, CUevent first, CUevent second) {
  return cuEventElapsedTime_v2(milliseconds, first, second);
}

API cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
  ENTER NEED(driver().events.count(event), CUDA_ERROR_INVALID_HANDLE)
  NEED_STREAM(s, handle)
  if (!event->record) return CUDA_SUCCESS;
  const auto& capture = event->record->capture;
  if (capture && !driver().captures.count(capture)) return CUDA_ERROR_CAPTURED_EVENT;
  if (capture) {
    NEED(!s->capture || s->capture == capture, CUDA_ERROR_STREAM_CAPTURE_MERGE)
    NEED(s->capture || !s->legacy, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
    s->capture = capture;
    capture->streams.insert(s);
    for (Node* n : event->record->nodes)
      if (std::find(s->tail.begin(), s->tail.end(), n) == s->tail.end()) s->tail.push_back(n);
    return CUDA_SUCCESS;
  }
  NEED(!s->capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
  if (event->record->op && !event->record->op->done) enqueue(s, [] {}, event->record->op);
  return CUDA_SUCCESS;
}
