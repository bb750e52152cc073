// Put before a server's libc (LD_PRELOAD): makes its disk slow and steps its clock, as a control file says, and notes
// there how much of the append-only file was on the disk when the last sync began. The file holds five 64-bit
// integers: delay of a sync in us, offset of the clock in us, syncs done, bytes synced, inode of the file synced.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *control;

__attribute__((constructor)) static void open_control(void) {
  const char *path = getenv("CHAOS_CONTROL");
  int file = path ? open(path, O_RDWR) : -1;
  if (file < 0) return;
  void *shared = mmap(NULL, 5 * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (shared != MAP_FAILED) control = shared;
  close(file);
}

static int is_log(int file) {
  char link[64], name[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, name, sizeof name - 1);
  if (length < 0) return 0;
  name[length] = 0;
  return strstr(name, ".incr.aof") != NULL;
}

static int slowly(int file, int (*sync)(int)) {
  struct stat before = {0};
  int logged = control && is_log(file) && fstat(file, &before) == 0;
  if (control && control[0] > 0) usleep((useconds_t)control[0]);
  int failed = sync(file);
  if (logged && !failed) {
    control[3] = before.st_size;
    control[4] = (int64_t)before.st_ino;
    control[2]++;
  }
  return failed;
}

int fdatasync(int file) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  return slowly(file, real);
}

int fsync(int file) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  return slowly(file, real);
}

int gettimeofday(struct timeval *now, void *zone) {
  static int (*real)(struct timeval *, void *);
  if (!real) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
  int failed = real(now, zone);
  if (!failed && control) {
    int64_t us = (int64_t)now->tv_sec * 1000000 + now->tv_usec + control[1];
    now->tv_sec = us / 1000000;
    now->tv_usec = us % 1000000;
  }
  return failed;
}
