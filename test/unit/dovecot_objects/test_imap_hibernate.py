"""The object of imap-hibernate: inotify is closed, and Dovecot does not wait for it."""

import pytest

# A kernel that lets each close of inotify wait until the test allows it, and may refuse threads.
KERNEL = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
sem_t may_close, closed;
int threads_fail;
__attribute__((constructor)) static void prepare(void)
    { sem_init(&may_close, 0, 0); sem_init(&closed, 0, 0); }
int close(int fd) {
    int (*original)(int) = dlsym(RTLD_NEXT, "close");
    char path[40], target[40] = "";
    snprintf(path, 40, "/proc/self/fd/%d", fd);
    if (readlink(path, target, 39) < 0 || strcmp(target, "anon_inode:inotify"))
        return original(fd);
    sem_wait(&may_close);
    int result = original(fd);
    sem_post(&closed);
    return result;
}
int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x) {
    if (threads_fail) return EAGAIN;
    int (*original)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        dlsym(RTLD_NEXT, "pthread_create");
    return original(t, a, f, x);
}
"""
PROGRAM = """
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>
extern sem_t may_close, closed;
extern int threads_fail;
static int is_open(int fd) { return fcntl(fd, F_GETFD) != -1; }
static volatile int signals;
static void count(int number) { signals++; }
int main(void) { int i, fds[300]; %s return 0; }
"""


@pytest.fixture
def run(with_object):
    """Return a function that runs C statements with the object and returns the lines they print."""
    return with_object("imap-hibernate", KERNEL, PROGRAM)


def test_program_goes_on_while_the_kernel_closes_inotify(run):
    said = run(
        'fds[0] = inotify_init(); printf("%d\\n", close(fds[0]));'
        'printf("%d\\n", is_open(fds[0]));'
        'sem_post(&may_close); sem_wait(&closed); printf("%d\\n", is_open(fds[0]));'
    )
    assert said == ["0", "1", "0"]


def test_each_of_many_instances_is_closed(run):
    said = run(
        "for (i = 0; i < 300; i++) fds[i] = inotify_init();"
        "for (i = 0; i < 300; i++) close(fds[i]);"
        "for (i = 0; i < 300; i++) sem_post(&may_close);"
        "for (i = 0; i < 300; i++) sem_wait(&closed);"
        'int left = 0; for (i = 0; i < 300; i++) left += is_open(fds[i]); printf("%d\\n", left);'
    )
    assert said == ["0"]


def test_other_files_are_closed_when_close_returns(run):
    said = run('pipe(fds); close(fds[0]); printf("%d %d\\n", is_open(fds[0]), is_open(fds[1]));')
    assert said == ["0 1"]


def test_wrong_number_is_an_error_as_before(run):
    assert run('printf("%d ", close(-1)); printf("%d\\n", errno == EBADF);') == ["-1 1"]


def test_instance_is_closed_when_no_thread_can_start(run):
    said = run(
        "threads_fail = 1; sem_post(&may_close); fds[0] = inotify_init();"
        'printf("%d ", close(fds[0])); printf("%d\\n", is_open(fds[0]));'
    )
    assert said == ["0 0"]


def test_signals_stay_with_the_program(run):
    """Dovecot's handlers may run in its own thread alone, and afterwards no signal is blocked."""
    said = run(
        "signal(SIGUSR1, count); fds[0] = inotify_init(); close(fds[0]); sigset_t blocked;"
        "sigemptyset(&blocked); sigaddset(&blocked, SIGUSR1); sigprocmask(SIG_BLOCK, &blocked, 0);"
        "kill(getpid(), SIGUSR1); sem_post(&may_close); sem_wait(&closed);"
        'printf("%d ", signals); sigprocmask(SIG_UNBLOCK, &blocked, 0); printf("%d\\n", signals);'
    )
    assert said == ["0 1"]
