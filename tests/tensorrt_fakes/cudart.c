/* A stand-in for libcudart in the host's memory: it proves that arguments arrive and that statuses are looked at, nothing about CUDA.
 * While a stream is captured its work is recorded and not done; launching the graph does it. Handles are checked, so are leaks:
 * fakeLive() tells how many are open. FAKE_CUDART_FAIL=cudaMalloc:2 makes that function answer 2 (out of memory).
 * Build: gcc -shared -fPIC -o libcudart.so cudart.c ; -DNO_GRAPHS leaves the graphs out, as an old library might.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, BAD_HANDLE = 400, CAPTURING = 900 };
enum { STREAM = 0x51, EVENT = 0x52, GRAPH = 0x53, EXEC = 0x54 };
typedef struct { void *to; const void *from; size_t size; void (*work)(void *); void *data; } Step;
typedef struct { int magic, count; Step step[64]; } Graph;
typedef struct { int magic; Graph *capturing; } Stream;
typedef struct { int magic; double ms; } Event;
static int live;
static size_t used;

static int injected(const char *name) {
    const char *wanted = getenv("FAKE_CUDART_FAIL");
    size_t length = strlen(name);
    return wanted && !strncmp(wanted, name, length) && wanted[length] == ':' ? atoi(wanted + length + 1) : 0;
}
#define BEGIN { int bad = injected(__func__); if (bad) return bad; }
#define NEED(handle, type, kind) type *h = handle; if (!h || h->magic != kind) return BAD_HANDLE;

static int made(void **out, size_t size, int magic) {
    int *new = calloc(1, size);
    if (!new) return NO_MEMORY;
    *new = magic;
    *out = new;
    live++;
    return OK;
}
static int gone(int *magic) { *magic = 0; live--; return OK; } /* kept, so that a second use is seen */
static void doing(const Step *step) {
    if (step->work) step->work(step->data);
    else memcpy(step->to, step->from, step->size);
}
static int put(Stream *stream, Step step) {
    if (!stream->capturing) { doing(&step); return OK; }
    if (stream->capturing->count == 64) return NO_MEMORY;
    stream->capturing->step[stream->capturing->count++] = step;
    return OK;
}
int fakeLive(void) { return live; }
int cudaRuntimeGetVersion(int *v) { BEGIN *v = 12060; return OK; }
int cudaDriverGetVersion(int *v) { BEGIN *v = 12060; return OK; }
int cudaGetDeviceCount(int *n) { BEGIN *n = 1; return OK; }
int cudaSetDevice(int d) { BEGIN return d == 0 ? OK : 101; }
int cudaDeviceGetAttribute(int *v, int a, int d) {
    BEGIN
    const char *minor = getenv("FAKE_CUDART_MINOR");
    if (d) return 101;
    *v = a == 75 ? 8 : a == 76 ? (minor ? atoi(minor) : 7) : a == 16 ? 8 : a == 18 ? 1 : -1;
    return *v < 0 ? INVALID : OK;
}
int cudaDeviceSynchronize(void) { BEGIN return OK; }
int cudaMemGetInfo(size_t *f, size_t *t) { BEGIN *t = (size_t)8 << 30; *f = *t - used; return OK; }
int cudaMalloc(void **p, size_t n) { BEGIN *p = malloc(n); used += n; live++; return *p ? OK : NO_MEMORY; }
int cudaFree(void *p) { BEGIN free(p); live--; return OK; }
int cudaMallocHost(void **p, size_t n) { BEGIN *p = malloc(n); live++; return *p ? OK : NO_MEMORY; }
int cudaFreeHost(void *p) { BEGIN free(p); live--; return OK; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) {
    BEGIN
    NEED(stream, Stream, STREAM)
    if (!to || !from || kind < 1 || kind > 3) return INVALID;
    return put(h, (Step){to, from, n, NULL, NULL});
}
int cudaLaunchHostFunc(void *stream, void (*work)(void *), void *data) { NEED(stream, Stream, STREAM) return put(h, (Step){0, 0, 0, work, data}); }
int cudaStreamCreateWithFlags(void **s, unsigned flags) { BEGIN return flags > 1 ? INVALID : made(s, sizeof(Stream), STREAM); }
int cudaStreamDestroy(void *s) { BEGIN NEED(s, Stream, STREAM) return gone(&h->magic); }
int cudaStreamSynchronize(void *s) { BEGIN NEED(s, Stream, STREAM) return h->capturing ? CAPTURING : OK; }
int cudaEventCreateWithFlags(void **e, unsigned flags) { BEGIN return flags > 7 ? INVALID : made(e, sizeof(Event), EVENT); }
int cudaEventDestroy(void *e) { BEGIN NEED(e, Event, EVENT) return gone(&h->magic); }
int cudaEventRecord(void *e, void *s) {
    BEGIN
    { NEED(s, Stream, STREAM) (void)h; }
    NEED(e, Event, EVENT)
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    h->ms = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
    return OK;
}
int cudaEventSynchronize(void *e) { BEGIN NEED(e, Event, EVENT) return h->ms > 0 ? OK : BAD_HANDLE; }
int cudaEventElapsedTime(float *ms, void *a, void *b) {
    BEGIN
    { NEED(a, Event, EVENT) if (h->ms <= 0) return BAD_HANDLE; }
    NEED(b, Event, EVENT)
    *ms = (float)(h->ms - ((Event *)a)->ms);
    return OK;
}
#ifndef NO_GRAPHS
int cudaStreamBeginCapture(void *s, int mode) {
    BEGIN
    NEED(s, Stream, STREAM)
    return mode < 0 || mode > 2 || h->capturing ? INVALID : made((void **)&h->capturing, sizeof(Graph), GRAPH);
}
int cudaStreamEndCapture(void *s, void **graph) {
    BEGIN
    NEED(s, Stream, STREAM)
    if (!h->capturing) return INVALID;
    *graph = h->capturing;
    h->capturing = NULL;
    return OK;
}
int cudaGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    BEGIN
    NEED(graph, Graph, GRAPH)
    if (flags) return INVALID;
    int failed = made(exec, sizeof(Graph), EXEC);
    if (failed) return failed;
    memcpy(((Graph *)*exec)->step, h->step, sizeof h->step);
    ((Graph *)*exec)->count = h->count;
    return OK;
}
int cudaGraphLaunch(void *exec, void *s) {
    BEGIN
    { NEED(s, Stream, STREAM) if (h->capturing) return CAPTURING; }
    NEED(exec, Graph, EXEC)
    for (int i = 0; i < h->count; i++) doing(&h->step[i]);
    return OK;
}
int cudaGraphExecDestroy(void *e) { BEGIN NEED(e, Graph, EXEC) return gone(&h->magic); }
int cudaGraphDestroy(void *g) { BEGIN NEED(g, Graph, GRAPH) return gone(&h->magic); }
#endif
const char *cudaGetErrorName(int e) { return e == NO_MEMORY ? "cudaErrorMemoryAllocation" : e == 35 ? "cudaErrorInsufficientDriver" : "fakeError"; }
const char *cudaGetErrorString(int e) { return e == NO_MEMORY ? "out of memory" : e == 35 ? "CUDA driver version is insufficient for CUDA runtime version" : "a fake error"; }
