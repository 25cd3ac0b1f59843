/*
 * The five functions that the library exports and no header has ever declared, declared as a program that
 * uses them declares them.
 */
#ifndef UNDECLARED_H
#define UNDECLARED_H

#ifdef __cplusplus
extern "C" {
#endif

enum ipc_errors handle_new_connection (struct ipc_connection_info *cinfo, struct ipc_connection_infos *cinfos,
	struct ipc_connection_info **new_client);
void ipc_message_print (const struct ipc_message *m);
void log_format (const char *tag, const char *message, va_list args);
void print_hexa (const char *prefix, uint8_t *payload, size_t size);
void mprint_hexa (char *prefix, uint8_t *buf, size_t length);

#ifdef __cplusplus
}
#endif

#endif
