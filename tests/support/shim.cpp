// This library is loaded before the C library (LD_PRELOAD). It makes the Nth operation that changes something below one
// folder fail, or ends the process at that operation. What is to fail, and how many operations there were, stands in a
// file that the test maps into memory too: LAYOUT in tests/support/faults.py.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

struct State {
  // Number of operations so far.
  int64_t count;
  // Number of the operation that fails, counted from 1. With 0 none fails.
  int64_t nth;
  // The errno that the operation sets. With 0 the process ends at the operation.
  int64_t error;
  // Whether all later operations fail too.
  int64_t lasting;
  // Number of operations that have failed.
  int64_t fired;
  // Absolute path of the folder, without a slash at its end. Nothing is counted while it is empty.
  char root[1024];
  // The first operation that failed and its path below the folder.
  char first_failure[1024];
};

State* state = nullptr;

__attribute__((constructor)) void start() {
  const char* name = getenv("SHIM_STATE");
  if (!name) return;
  using Open = int (*)(const char*, int, ...);
  int file = reinterpret_cast<Open>(dlsym(RTLD_NEXT, "open"))(name, O_RDWR | O_CLOEXEC);
  if (file < 0) return;
  void* memory = mmap(nullptr, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory != MAP_FAILED) state = static_cast<State*>(memory);
}

// Returns whether a path is the folder or lies below it.
bool below(const char* path) {
  size_t length = strlen(state->root);
  return length && !strncmp(path, state->root, length) && (path[length] == '/' || !path[length]);
}

// Writes the path of an open file into `path`.
bool path_of_handle(int handle, char* path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return false;
  path[length] = 0;
  return true;
}

// Writes the absolute path of a name that is relative to the folder `at` into `path`.
bool path_of_name(int at, const char* name, char* path) {
  if (name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name);
    return true;
  }
  char folder[PATH_MAX];
  if (at == AT_FDCWD ? !getcwd(folder, sizeof folder) : !path_of_handle(at, folder)) return false;
  return snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX;
}

// Counts an operation and returns whether it is to fail. If so, it sets errno.
bool fails(const char* operation, const char* path) {
  int64_t number = __atomic_add_fetch(&state->count, 1, __ATOMIC_SEQ_CST);
  int64_t nth = state->nth;
  if (!nth || !(number == nth || (state->lasting && number > nth))) return false;
  if (__atomic_add_fetch(&state->fired, 1, __ATOMIC_SEQ_CST) == 1)
    snprintf(state->first_failure, sizeof state->first_failure, "%s %s", operation, path + strlen(state->root));
  if (!state->error) _exit(99);
  errno = static_cast<int>(state->error);
  return true;
}

bool handle_fails(const char* operation, int handle) {
  char path[PATH_MAX];
  if (!state || !state->root[0]) return false;
  int before = errno;
  bool is_below = path_of_handle(handle, path) && below(path);
  errno = before;
  return is_below && fails(operation, path);
}

bool name_fails(const char* operation, int at, const char* name) {
  char path[PATH_MAX];
  if (!state || !state->root[0]) return false;
  int before = errno;
  bool is_below = path_of_name(at, name, path) && below(path);
  errno = before;
  return is_below && fails(operation, path);
}

bool creation_fails(int at, const char* name, int flags) {
  if (!state || !state->root[0] || !(flags & O_CREAT)) return false;
  int before = errno;
  bool exists = faccessat(at, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
  errno = before;
  return !exists && name_fails("create", at, name);
}

}  // namespace

#define REAL(name) reinterpret_cast<decltype(&::name)>(dlsym(RTLD_NEXT, #name))
#define MODE()                                          \
  mode_t mode = 0;                                      \
  if (flags & (O_CREAT | O_TMPFILE)) {                  \
    va_list more;                                       \
    va_start(more, flags);                              \
    mode = static_cast<mode_t>(va_arg(more, unsigned)); \
    va_end(more);                                       \
  }

extern "C" {

// A write that fails has written its first half, as on a disk that becomes full or breaks in the meantime.
ssize_t write(int handle, const void* data, size_t size) {
  static auto real = REAL(write);
  if (handle_fails("write", handle)) {
    int error = errno;
    if (size > 1 && real(handle, data, size / 2) < 0) {}
    errno = error;
    return -1;
  }
  return real(handle, data, size);
}

size_t fwrite(const void* data, size_t size, size_t count, FILE* file) {
  static auto real = REAL(fwrite);
  if (handle_fails("fwrite", fileno(file))) {
    int error = errno;
    size_t done = real(data, size, count / 2, file);
    errno = error;
    return done;
  }
  return real(data, size, count, file);
}

#define HANDLE(kind, result, name, arguments, values, handle)   \
  result name arguments {                                       \
    static auto real = REAL(name);                              \
    return handle_fails(kind, handle) ? -1 : real values;       \
  }
HANDLE("write", ssize_t, pwrite, (int h, const void* d, size_t n, off_t o), (h, d, n, o), h)
HANDLE("write", ssize_t, pwrite64, (int h, const void* d, size_t n, off64_t o), (h, d, n, o), h)
HANDLE("write", ssize_t, writev, (int h, const iovec* v, int n), (h, v, n), h)
HANDLE("write", ssize_t, pwritev, (int h, const iovec* v, int n, off_t o), (h, v, n, o), h)
HANDLE("write", ssize_t, pwritev64, (int h, const iovec* v, int n, off64_t o), (h, v, n, o), h)
HANDLE("copy", ssize_t, sendfile, (int out, int in, off_t* o, size_t n), (out, in, o, n), out)
HANDLE("copy", ssize_t, sendfile64, (int out, int in, off64_t* o, size_t n), (out, in, o, n), out)
HANDLE("copy", ssize_t, copy_file_range, (int in, off64_t* i, int out, off64_t* o, size_t n, unsigned f), (in, i, out, o, n, f), out)
HANDLE("fsync", int, fsync, (int h), (h), h)
HANDLE("fsync", int, fdatasync, (int h), (h), h)
HANDLE("truncate", int, ftruncate, (int h, off_t n), (h, n), h)
HANDLE("truncate", int, ftruncate64, (int h, off64_t n), (h, n), h)
HANDLE("allocate", int, fallocate, (int h, int m, off_t o, off_t n), (h, m, o, n), h)
HANDLE("allocate", int, fallocate64, (int h, int m, off64_t o, off64_t n), (h, m, o, n), h)

// These two functions return the error instead of setting errno.
int posix_fallocate(int handle, off_t from, off_t size) {
  static auto real = REAL(posix_fallocate);
  return handle_fails("allocate", handle) ? errno : real(handle, from, size);
}
int posix_fallocate64(int handle, off64_t from, off64_t size) {
  static auto real = REAL(posix_fallocate64);
  return handle_fails("allocate", handle) ? errno : real(handle, from, size);
}

#define NAME(kind, name, arguments, values, at, path)     \
  int name arguments {                                    \
    static auto real = REAL(name);                        \
    return name_fails(kind, at, path) ? -1 : real values; \
  }
NAME("rename", rename, (const char* a, const char* b), (a, b), AT_FDCWD, b)
NAME("rename", renameat, (int i, const char* a, int j, const char* b), (i, a, j, b), j, b)
NAME("rename", renameat2, (int i, const char* a, int j, const char* b, unsigned f), (i, a, j, b, f), j, b)
NAME("mkdir", mkdir, (const char* a, mode_t m), (a, m), AT_FDCWD, a)
NAME("mkdir", mkdirat, (int i, const char* a, mode_t m), (i, a, m), i, a)
NAME("link", link, (const char* a, const char* b), (a, b), AT_FDCWD, b)
NAME("link", linkat, (int i, const char* a, int j, const char* b, int f), (i, a, j, b, f), j, b)
NAME("truncate", truncate, (const char* a, off_t n), (a, n), AT_FDCWD, a)
NAME("truncate", truncate64, (const char* a, off64_t n), (a, n), AT_FDCWD, a)

int open(const char* path, int flags, ...) {
  static auto real = REAL(open);
  MODE()
  return creation_fails(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  static auto real = REAL(open64);
  MODE()
  return creation_fails(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode);
}
int openat(int at, const char* path, int flags, ...) {
  static auto real = REAL(openat);
  MODE()
  return creation_fails(at, path, flags) ? -1 : real(at, path, flags, mode);
}
int openat64(int at, const char* path, int flags, ...) {
  static auto real = REAL(openat64);
  MODE()
  return creation_fails(at, path, flags) ? -1 : real(at, path, flags, mode);
}

}  // extern "C"
