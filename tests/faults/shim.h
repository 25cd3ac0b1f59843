/*
 * Faults: loaded before libc (LD_PRELOAD), the shim makes calls of libipc.so into libc fail, and keeps count of
 * them and of the library's blocks of memory. The program's own calls and libc's own are not touched: what
 * counts is whether the call returns into the library's code.
 *
 *   FAULTS_CALL    the function: "recv"; none: nothing fails
 *   FAULTS_WITH    the number of the errno that it fails with, or "short": it reads or writes one byte
 *   FAULTS_AT      the first call that fails, from 1
 *   FAULTS_COUNT   how many fail from there on
 *
 * A fault is one that the kernel can really give at that call: a call that does not wait is not interrupted, a
 * connection that is said to be dead is dead, a descriptor whose close fails is closed, and epoll says of one
 * that it watches already that it does.
 *
 * At the end of the program one line for each function called ("recv 120"), one for the faults
 * ("injected 1 of 119, the last at 0x1234"), on standard output, and on standard error the blocks that the
 * library has allocated and that nobody has freed. Places are those in the file of the library.
 *
 * For programs of one thread.
 */
#ifndef SHIM_H
#define SHIM_H

/* How many calls of the library have failed by the shim so far. */
unsigned long faults_injected (void);

/* Prints what is printed at the end, for a program that ends otherwise. */
void faults_report (void);

#endif
