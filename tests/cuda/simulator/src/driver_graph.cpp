// Capture of streams into graphs, and graphs: made executable, launched, updated.
//
// An executable graph keeps copies of its nodes. A launch is one piece of work of its stream, which
// runs the nodes in an order that their edges allow: the order of capture, or, in deferred mode with
// a seed, another one.
#include <algorithm>
#include <cstring>

#include "driver.h"

std::shared_ptr<Launch> make_launch(Function*, const unsigned*, const unsigned*, unsigned, void**);
CUresult check_launch(const Function*, const unsigned*, const unsigned*, unsigned);

CUresult refuse_while_capturing() {
  CUresult refused = CUDA_SUCCESS;
  for (const auto& c : driver().captures) {
    const bool concerns = c->mode == CU_STREAM_CAPTURE_MODE_GLOBAL ||
                          (c->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL &&
                           c->thread == std::this_thread::get_id());
    if (!concerns) continue;
    c->invalid = true;
    refused = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return refused;
}

// -- capture --------------------------------------------------------------------------------------

static Graph* new_graph() {
  auto* g = new Graph;
  g->id = static_cast<unsigned long long>(++driver().next_id);
  driver().graphs.insert(g);
  return g;
}

static CUresult begin(Stream* s, Graph* graph, std::vector<Node*> after, int mode) {
  NEED(!s->capture, CUDA_ERROR_INVALID_VALUE)
  NEED(!s->legacy, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
  auto c = std::make_shared<Capture>();
  c->graph = graph ? graph : new_graph();
  c->origin = s;
  c->mode = mode;
  c->thread = std::this_thread::get_id();
  c->id = static_cast<unsigned long long>(++driver().next_id);
  c->streams = {s};
  s->capture = c;
  s->tail = std::move(after);
  driver().captures.insert(c);
  return CUDA_SUCCESS;
}

API cuStreamBeginCapture_v2(CUstream handle, int mode) {
  ENTER NEED_STREAM(s, handle)
  return begin(s, nullptr, {}, mode);
}

API cuStreamBeginCaptureToGraph(CUstream handle, CUgraph graph, const CUgraphNode* after,
                                const void*, size_t count, int mode) {
  ENTER NEED_STREAM(s, handle)
  NEED(driver().graphs.count(graph), CUDA_ERROR_INVALID_VALUE)
  return begin(s, graph, std::vector<Node*>(after, after + count), mode);
}

// Whether all that the other streams captured is in front of what the first one ends with.
static bool is_joined(const Capture& c) {
  std::set<Node*> before;
  std::vector<Node*> todo = c.origin->tail;
  while (!todo.empty()) {
    Node* n = todo.back();
    todo.pop_back();
    if (before.insert(n).second) todo.insert(todo.end(), n->after.begin(), n->after.end());
  }
  for (const Stream* s : c.streams)
    for (Node* n : s->tail)
      if (!before.count(n)) return false;
  return true;
}

API cuStreamEndCapture(CUstream handle, CUgraph* out) {
  ENTER NEED_STREAM(s, handle)
  *out = nullptr;
  NEED(s->capture, CUDA_ERROR_INVALID_VALUE)
  const std::shared_ptr<Capture> c = s->capture;
  NEED(c->origin == s, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED)
  const bool joined = is_joined(*c);
  for (Stream* other : c->streams) {
    if (!driver().streams.count(other) && other != s) continue;  // destroyed since
    other->capture = nullptr;
    other->tail.clear();
  }
  driver().captures.erase(c);
  if (c->invalid || !joined) {
    driver().graphs.erase(c->graph);
    delete c->graph;
    return c->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  }
  *out = c->graph;
  return CUDA_SUCCESS;
}

API cuStreamIsCapturing(CUstream handle, int* status) {
  ENTER NEED_STREAM(s, handle)
  *status = !s->capture          ? CU_STREAM_CAPTURE_STATUS_NONE
            : s->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                  : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}

API cuStreamGetCaptureInfo_v3(CUstream handle, int* status, uint64_t* id, CUgraph* graph,
                              const CUgraphNode** after, const void** edges, size_t* count) {
  ENTER NEED_STREAM(s, handle)
  cuStreamIsCapturing(handle, status);
  if (id) *id = s->capture ? s->capture->id : 0;
  if (graph) *graph = s->capture ? s->capture->graph : nullptr;
  if (after) *after = s->tail.data();
  if (edges) {  // one of 8 zero bytes for each dependency
    static thread_local std::vector<uint64_t> plain;
    plain.assign(s->tail.size(), 0);
    *edges = plain.data();
  }
  if (count) *count = s->tail.size();
  return CUDA_SUCCESS;
}

API cuStreamGetCaptureInfo_v2(CUstream handle, int* status, uint64_t* id, CUgraph* graph,
                              const CUgraphNode** after, size_t* count) {
  return cuStreamGetCaptureInfo_v3(handle, status, id, graph, after, nullptr, count);
}

API cuStreamUpdateCaptureDependencies_v2(CUstream handle, CUgraphNode* nodes, const void*,
                                         size_t count, unsigned flags) {
  ENTER NEED_STREAM(s, handle)
  NEED(s->capture, CUDA_ERROR_INVALID_VALUE)
  if (flags) s->tail.clear();  // set instead of add
  s->tail.insert(s->tail.end(), nodes, nodes + count);
  return CUDA_SUCCESS;
}

API cuThreadExchangeStreamCaptureMode(int*) { ENTER return CUDA_SUCCESS; }

// -- graphs ---------------------------------------------------------------------------------------

API cuGraphCreate(CUgraph* out, unsigned) {
  ENTER
  *out = new_graph();
  return CUDA_SUCCESS;
}

API cuGraphDestroy(CUgraph graph) {
  ENTER NEED(driver().graphs.erase(graph), CUDA_ERROR_INVALID_VALUE)
  delete graph;
  return CUDA_SUCCESS;
}

API cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
  ENTER NEED(driver().graphs.count(graph), CUDA_ERROR_INVALID_VALUE)
  if (nodes)
    for (size_t k = 0; k < std::min(*count, graph->nodes.size()); k++)
      nodes[k] = graph->nodes[k].get();
  *count = graph->nodes.size();
  return CUDA_SUCCESS;
}

API cuGraphNodeGetType(CUgraphNode node, int* type) {
  ENTER
  *type = node->type;
  return CUDA_SUCCESS;
}

API cuGraphNodeGetDependencies_v2(CUgraphNode node, CUgraphNode* after, void*, size_t* count) {
  ENTER
  if (after) std::copy_n(node->after.begin(), std::min(*count, node->after.size()), after);
  *count = node->after.size();
  return CUDA_SUCCESS;
}

static std::shared_ptr<Launch> launch_of(const CUDA_KERNEL_NODE_PARAMS* p) {
  Function* f = p->func ? p->func : p->kern;
  const unsigned grid[3] = {p->gridDimX, p->gridDimY, p->gridDimZ};
  const unsigned block[3] = {p->blockDimX, p->blockDimY, p->blockDimZ};
  if (check_launch(f, grid, block, p->sharedMemBytes)) return nullptr;
  return make_launch(f, grid, block, p->sharedMemBytes, p->kernelParams);
}

API cuGraphAddKernelNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                            size_t count, const CUDA_KERNEL_NODE_PARAMS* params) {
  ENTER NEED(driver().graphs.count(graph), CUDA_ERROR_INVALID_VALUE)
  const auto launch = launch_of(params);
  NEED(launch, CUDA_ERROR_INVALID_VALUE)
  graph->nodes.push_back(std::make_unique<Node>());
  *out = graph->nodes.back().get();
  **out = {CU_GRAPH_NODE_TYPE_KERNEL, [launch] { launch->run(); },
           std::vector<Node*>(after, after + count), launch};
  return CUDA_SUCCESS;
}

API cuGraphAddEmptyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after, size_t count) {
  ENTER NEED(driver().graphs.count(graph), CUDA_ERROR_INVALID_VALUE)
  graph->nodes.push_back(std::make_unique<Node>());
  *out = graph->nodes.back().get();
  **out = {CU_GRAPH_NODE_TYPE_EMPTY, [] {}, std::vector<Node*>(after, after + count), nullptr};
  return CUDA_SUCCESS;
}

API cuGraphDebugDotPrint(CUgraph graph, const char* path, unsigned) {
  ENTER NEED(driver().graphs.count(graph), CUDA_ERROR_INVALID_VALUE)
  FILE* file = fopen(path, "w");
  NEED(file, CUDA_ERROR_INVALID_VALUE)
  fprintf(file, "digraph g%llu {\n", graph->id);
  for (const auto& n : graph->nodes) {
    fprintf(file, "n%p [label=\"%s\"];\n", static_cast<void*>(n.get()),
            n->launch ? n->launch->function->kernel->name : "");
    for (const Node* a : n->after)
      fprintf(file, "n%p -> n%p;\n", static_cast<const void*>(a), static_cast<void*>(n.get()));
  }
  fprintf(file, "}\n");
  fclose(file);
  return CUDA_SUCCESS;
}

// -- executable graphs ----------------------------------------------------------------------------

// The nodes in an order in which each comes after what it depends on.
static std::vector<ExecNode> executable(const Graph& graph) {
  std::vector<ExecNode> nodes;
  std::map<const Node*, int> number;
  std::function<void(const Node*)> add = [&](const Node* n) {
    if (number.count(n)) return;
    for (const Node* a : n->after) add(a);
    ExecNode e{n->type, n->work, {}, n};
    for (const Node* a : n->after) e.after.push_back(number[a]);
    number[n] = static_cast<int>(nodes.size());
    nodes.push_back(std::move(e));
  };
  for (const auto& n : graph.nodes) add(n.get());
  return nodes;
}

API cuGraphInstantiateWithParams(CUgraphExec* out, CUgraph graph,
                                 CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  ENTER NEED(driver().graphs.count(graph), CUDA_ERROR_INVALID_VALUE)
  *out = new GraphExec{executable(*graph), graph->memory};
  driver().execs.insert(*out);
  if (params) {
    params->result_out = 0;
    params->hErrNode_out = nullptr;
  }
  return CUDA_SUCCESS;
}

API cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long) {
  return cuGraphInstantiateWithParams(out, graph, nullptr);
}

API cuGraphExecDestroy(CUgraphExec exec) {
  ENTER NEED(driver().execs.erase(exec), CUDA_ERROR_INVALID_VALUE)
  delete exec;
  return CUDA_SUCCESS;
}

API cuGraphUpload(CUgraphExec exec, CUstream handle) {
  ENTER NEED_STREAM(s, handle)
  NEED(driver().execs.count(exec), CUDA_ERROR_INVALID_VALUE)
  return CUDA_SUCCESS;
}

static void run_nodes(const std::vector<ExecNode>& nodes) {
  const bool shuffled = driver().set.deferred && driver().set.seed;
  std::vector<char> done(nodes.size(), 0);
  for (size_t count = 0; count < nodes.size(); count++) {
    std::vector<size_t> ready;
    for (size_t k = 0; k < nodes.size() && (shuffled || ready.empty()); k++) {
      const auto is_done = [&](int a) { return done[static_cast<size_t>(a)] != 0; };
      if (!done[k] && std::all_of(nodes[k].after.begin(), nodes[k].after.end(), is_done))
        ready.push_back(k);
    }
    const size_t k = ready[shuffled ? driver().random() % ready.size() : 0];
    nodes[k].work();
    done[k] = 1;
  }
}

API cuGraphLaunch(CUgraphExec exec, CUstream handle) {
  ENTER NEED_STREAM(s, handle)
  NEED(driver().execs.count(exec), CUDA_ERROR_INVALID_VALUE)
  driver().graph_launches++;
  if (driver().set.null_launches && !s->capture) return CUDA_SUCCESS;
  const auto memory = exec->memory;  // lives until the work is done
  submit(s, CU_GRAPH_NODE_TYPE_GRAPH,
         [nodes = exec->nodes, memory] { run_nodes(nodes); });
  return CUDA_SUCCESS;
}

API cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo* info) {
  ENTER NEED(driver().execs.count(exec) && driver().graphs.count(graph), CUDA_ERROR_INVALID_VALUE)
  std::vector<ExecNode> nodes = executable(*graph);
  int result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
  if (nodes.size() != exec->nodes.size()) result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
  for (size_t k = 0; k < nodes.size() && !result; k++) {
    if (nodes[k].after != exec->nodes[k].after)
      result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    else if (nodes[k].type != exec->nodes[k].type)
      result = CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
  }
  if (info) *info = {result, nullptr, nullptr};
  NEED(!result, CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE)
  exec->nodes = std::move(nodes);
  exec->memory = graph->memory;
  return CUDA_SUCCESS;
}

API cuGraphKernelNodeGetParams_v2(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS* out) {
  ENTER NEED(node->type == CU_GRAPH_NODE_TYPE_KERNEL, CUDA_ERROR_INVALID_VALUE)
  *out = {};
  if (!node->launch) return CUDA_SUCCESS;  // of a library, which has no function to show
  Launch& l = *node->launch;
  l.pointers.clear();
  for (size_t at : l.offsets) l.pointers.push_back(l.values.data() + at);
  *out = {l.function, l.grid[0], l.grid[1], l.grid[2], l.block[0], l.block[1], l.block[2],
          l.shared, l.pointers.data(), nullptr, nullptr, nullptr};
  return CUDA_SUCCESS;
}

API cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                      const CUDA_KERNEL_NODE_PARAMS* params) {
  ENTER NEED(driver().execs.count(exec), CUDA_ERROR_INVALID_VALUE)
  const auto launch = launch_of(params);
  NEED(launch, CUDA_ERROR_INVALID_VALUE)
  for (ExecNode& e : exec->nodes) {
    if (e.origin != node) continue;
    e.work = [launch] { launch->run(); };
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}

// -- user objects ---------------------------------------------------------------------------------

struct UserObject {
  void* data;
  CUhostFn destroy;
  unsigned count;
};

static void drop(UserObject* o, unsigned count) {
  o->count -= std::min(count, o->count);
  if (o->count) return;
  o->destroy(o->data);
  delete o;
}

API cuUserObjectCreate(UserObject** out, void* data, CUhostFn destroy, unsigned count, unsigned) {
  ENTER
  *out = new UserObject{data, destroy, count};
  return CUDA_SUCCESS;
}

API cuUserObjectRetain(UserObject* object, unsigned count) {
  ENTER
  object->count += count;
  return CUDA_SUCCESS;
}

API cuUserObjectRelease(UserObject* object, unsigned count) {
  ENTER
  drop(object, count);
  return CUDA_SUCCESS;
}

// A graph that retains an object holds it by its memory, which the graphs made from it share.
API cuGraphRetainUserObject(CUgraph graph, UserObject* object, unsigned count, unsigned flags) {
  ENTER NEED(driver().graphs.count(graph), CUDA_ERROR_INVALID_VALUE)
  if (!(flags & 1)) object->count += count;  // 1: the caller's references are handed over
  const std::shared_ptr<GraphMemory> before = graph->memory;
  graph->memory = std::shared_ptr<GraphMemory>(before.get(), [before, object, count](GraphMemory*) {
    drop(object, count);
  });
  return CUDA_SUCCESS;
}
