// Delays every flush of a file by BENCH_FLUSH_MS milliseconds, to simulate a slower disk. It is loaded
// before the C library; see bench/flushing.py.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static int slowly(const char *name, int file)
{
    long ms = strtol(getenv("BENCH_FLUSH_MS"), NULL, 10);
    struct timespec longer = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&longer, NULL);
    int (*flush)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return flush(file);
}

int fsync(int file) { return slowly("fsync", file); }
int fdatasync(int file) { return slowly("fdatasync", file); }
