// What a kernel image and the fiber runtime (hostcuda.cpp) know of each other.
//
// A kernel image is a shared library of the host. For each kernel it exports one `hc_kernel`, named
// hc_kernel_<name>; whatever the kernel needs while it runs it finds through `hc_state`, so that an
// image has no undefined symbols but those of the C library. No standard header is included: an
// image has to compile in a fraction of a second.
#pragma once

typedef decltype(sizeof(0)) hc_size;
typedef unsigned long long hc_bits;

struct hc_dim { unsigned x, y, z; };

// What the threads of a warp do together, in hc_state::warp.
enum hc_warp_op {
  HC_SYNC, HC_SHUFFLE, HC_BALLOT, HC_MATCH,
  HC_ADD, HC_AND, HC_OR, HC_XOR, HC_MIN_SIGNED, HC_MAX_SIGNED, HC_MIN_UNSIGNED, HC_MAX_UNSIGNED
};

struct hc_state {
  hc_dim thread, block, block_size, grid_size;  // threadIdx, blockIdx, blockDim, gridDim
  char* dynamic_shared;
  int lane;                                     // number of this thread in its warp
  // Waits for all threads of the block; returns how many of them passed a value that is not 0.
  int (*barrier)(int line, int value);
  // Waits for the lanes in `mask`; `source` is the lane that HC_SHUFFLE reads.
  hc_bits (*warp)(unsigned mask, int op, hc_bits value, int source);
  void (*yield)();                              // lets other threads run (for __nanosleep)
  void (*fail)(const char* why);                // ends the launch with an error; does not return
};

struct hc_kernel {
  const char* name;
  void (*call)(void** args);
  int count;                                    // of arguments
  const hc_size *sizes, *alignments;
  char *shared_begin, *shared_end;              // the image's static shared memory
  hc_state** state;                             // set before the kernel is called
};
