/*
 * Faults: the shim is loaded before libc (LD_PRELOAD), makes calls of libipc.so into libc fail, and counts
 * these calls and the library's blocks of memory. A call belongs to the library if its return address is in
 * the library's code; calls of the program and of libc itself are not changed.
 *
 *   FAULTS_CALL    the function: "recv"; if it is not set, nothing fails
 *   FAULTS_WITH    the number of the errno that it fails with, or "short": it reads or writes one byte
 *   FAULTS_AT      the first call that fails, from 1
 *   FAULTS_COUNT   how many calls fail, from that call on
 *
 * Only faults are injected that the kernel can report for that call: a call that does not wait is not
 * interrupted, a connection that is reported as broken is broken, a descriptor whose close fails is closed,
 * and epoll_ctl still fails with EEXIST for a descriptor that is registered.
 *
 * At the end of the program the shim prints, on standard output, one line for each function called ("recv
 * 120") and one for the faults ("injected 1 of 119, the last at 0x1234"), and on standard error the blocks
 * that the library has allocated and that were not freed. Addresses are offsets in the file of the library.
 *
 * For programs of one thread.
 */
#ifndef SHIM_H
#define SHIM_H

/* How many calls of the library the shim has made fail so far. */
unsigned long faults_injected (void);

/* Prints the lines of the end, for a program that ends in another way. */
void faults_report (void);

#endif
