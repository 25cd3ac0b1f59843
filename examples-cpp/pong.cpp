/*
 * pong: sends each of its arguments to pongd as a message, and prints the answers.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#include "ipc.hpp"

#include <iostream>

int main (int argc, char *argv[])
{
    try {
        const ipc::Connection server ("pongd");

        for (int i = 1; i < argc; i++) {
            server.write (ipc::Message (argv[i]));
            std::cout << server.read ().bytes () << '\n';
        }
    } catch (const ipc::Error &error) {
        std::cerr << "pong: " << error.what () << '\n';
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
