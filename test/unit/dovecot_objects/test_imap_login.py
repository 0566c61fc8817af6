"""The object of imap-login: the sizes that it asks for, and when it gives memory back."""

import pytest

# Stand-ins for Dovecot, OpenSSL and glibc, which say how they are called.
ORIGINALS = """
#include <stdio.h>
int BIO_new_bio_pair(void **a, unsigned long x, void **b, unsigned long y)
    { printf("bio %lu %lu\\n", x, y); return 1; }
void *i_stream_create_fd_autoclose(int *fd, unsigned long x) { printf("in %lu\\n", x); return 0; }
void *o_stream_create_fd(int fd, unsigned long x) { printf("out %lu\\n", x); return 0; }
void *pool_alloconly_create(const char *name, unsigned long x)
    { printf("%s %lu\\n", name, x); return 0; }
void *SSL_new(void *context) { return context; }
void SSL_free(void *connection) {}
int malloc_trim(unsigned long pad) { printf("trim\\n"); return 1; }
"""
DECLARATIONS = """
#include <stdio.h>
int BIO_new_bio_pair(void **, unsigned long, void **, unsigned long);
void *i_stream_create_fd_autoclose(int *, unsigned long), *o_stream_create_fd(int, unsigned long);
void *pool_alloconly_create(const char *, unsigned long), *SSL_new(void *);
void SSL_free(void *);
int main(void) { void *a = &a; int i; %s return 0; }
"""


@pytest.fixture
def run(with_object):
    """Return a function that runs C statements with the object and returns the lines they print."""
    return with_object("imap-login", ORIGINALS, DECLARATIONS)


def test_buffers_of_a_client_are_small(run):
    said = run(
        "BIO_new_bio_pair(&a, 0, &a, 0); i_stream_create_fd_autoclose(&i, 8192);"
        'o_stream_create_fd(1, 8192); pool_alloconly_create("login client", 8192);'
    )
    assert said == ["bio 4096 2048", "in 4096", "out 2048", "login client 2048"]


def test_other_sizes_stay(run):
    said = run(
        "BIO_new_bio_pair(&a, 512, &a, 0); i_stream_create_fd_autoclose(&i, 1026);"
        'o_stream_create_fd(1, 4096); pool_alloconly_create("login client", 4096);'
        'pool_alloconly_create("login clients", 8192); pool_alloconly_create("login", 8192);'
    )
    assert said == [
        *("bio 512 0", "in 1026", "out 4096"),
        *("login client 4096", "login clients 8192", "login 8192"),
    ]


def test_memory_is_given_back_when_a_quarter_of_the_clients_has_left(run):
    said = run(
        "for (i = 0; i < 100; i++) SSL_new(a);"
        'for (i = 1; i <= 100; i++) { SSL_free(a); printf("%d\\n", i); }'
    )
    trims = [int(said[at + 1]) for at, line in enumerate(said) if line == "trim"]
    assert trims == [29, 51, 68, 80, 89, 96]


def test_clients_who_come_and_go_cause_no_work(run):
    said = run("for (i = 0; i < 1000; i++) { SSL_new(a); SSL_new(a); SSL_free(a); SSL_free(a); }")
    assert said == []


def test_connection_that_was_not_made_counts_for_nothing(run):
    said = run(
        "for (i = 0; i < 8; i++) SSL_new(a); for (i = 0; i < 90; i++) SSL_free(0);"
        "for (i = 0; i < 90; i++) SSL_new(0); for (i = 0; i < 5; i++) SSL_free(a);"
        'printf("5\\n"); SSL_free(a);'
    )
    assert said == ["5", "trim"]
