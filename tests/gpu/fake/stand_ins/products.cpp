// What torch wants to hear from cuBLAS, apart from success. Left out is everything else: no product is computed.

extern "C" {

// A way to multiply: without one, torch gives up.
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void*, int* found) {
  *found = 1;
  return 0;
}

}  // extern "C"
