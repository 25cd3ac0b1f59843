/* The interface between the two files of one program. */
#ifndef TWO_FILES_H
#define TWO_FILES_H

enum msg_types type_seen_by_b (void);
enum ipc_errors format_by_b (struct ipc_message *m);

#endif
