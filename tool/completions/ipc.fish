# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_ipc_global_optspecs
    string join \n rundir= json h/help V/version
end

function __fish_ipc_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_ipc_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_ipc_using_subcommand
    set -l cmd (__fish_ipc_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c ipc -n "__fish_ipc_needs_command" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_needs_command" -l json -d 'Prints a JSON object for each line'
complete -c ipc -n "__fish_ipc_needs_command" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_needs_command" -s V -l version -d 'Print version'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "list" -d 'Lists the services of the run directory, and disturbs no server'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "wait" -d 'Waits until a service is there, without connecting to it'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "send" -d 'Sends messages to a service, and prints its answers'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "listen" -d 'Opens a service, and prints what its clients do'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "chat" -d 'Sends the lines of standard input, and prints what the service sends'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "monitor" -d 'Shows the messages between a program and a service'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "bench" -d 'Measures a service that answers each message with itself, or the library alone'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "run" -d 'Runs a program, with other routes to services'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "explain" -d 'Shows step by step where a connection to a service goes, and why it fails'
complete -c ipc -n "__fish_ipc_using_subcommand list" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand list" -s a -l all -d 'Lists services whose server is dead, too'
complete -c ipc -n "__fish_ipc_using_subcommand list" -l json -d 'Prints a JSON object for each line'
complete -c ipc -n "__fish_ipc_using_subcommand list" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand wait" -l timeout -d 'The longest time to wait; exit status 124 after it' -r
complete -c ipc -n "__fish_ipc_using_subcommand wait" -l to -d 'Where to connect, in place of what the environment says: another service, unix:PATH, or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand wait" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand wait" -l gone -d 'Waits until the service is there no more'
complete -c ipc -n "__fish_ipc_using_subcommand wait" -l json -d 'Prints a JSON object for each line'
complete -c ipc -n "__fish_ipc_using_subcommand wait" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand send" -s t -l type -d 'The type of the messages' -r
complete -c ipc -n "__fish_ipc_using_subcommand send" -s f -l file -d 'Sends what the file holds, as one message; - is standard input' -r -F
complete -c ipc -n "__fish_ipc_using_subcommand send" -s w -l wait -d 'Waits for so many answers, and prints them' -r
complete -c ipc -n "__fish_ipc_using_subcommand send" -l timeout -d 'The longest time for all of it; exit status 124 after it' -r
complete -c ipc -n "__fish_ipc_using_subcommand send" -l to -d 'Where to connect, in place of what the environment says: another service, unix:PATH, or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand send" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand send" -l lines -d 'Sends each line of the file or of standard input as a message'
complete -c ipc -n "__fish_ipc_using_subcommand send" -l raw -d 'Prints the payload of answers as it is, and nothing else'
complete -c ipc -n "__fish_ipc_using_subcommand send" -l json -d 'Prints a JSON object for each line'
complete -c ipc -n "__fish_ipc_using_subcommand send" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand listen" -s t -l type -d 'The type of the answers; that of the message if it is not given' -r
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l reply -d 'Answers each message with this' -r
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l exec -d 'Runs a command of the shell for each message, with the payload on its standard input; answers with its output' -r -f -a "(__fish_complete_command)"
complete -c ipc -n "__fish_ipc_using_subcommand listen" -s n -l count -d 'Ends after so many messages' -r
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l mode -d 'The mode of the socket, such as 600; else the umask decides' -r
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l echo -d 'Answers each message with itself'
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l json -d 'Prints a JSON object for each line'
complete -c ipc -n "__fish_ipc_using_subcommand listen" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand chat" -s t -l type -d 'The type of the messages' -r
complete -c ipc -n "__fish_ipc_using_subcommand chat" -l to -d 'Where to connect, in place of what the environment says: another service, unix:PATH, or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand chat" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand chat" -l json -d 'Prints a JSON object for each line'
complete -c ipc -n "__fish_ipc_using_subcommand chat" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -s n -l count -d 'Ends after so many messages' -r
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -l timeout -d 'Ends after this time; exit status 124' -r
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -l to -d 'Where to connect, in place of what the environment says: another service, unix:PATH, or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -l json -d 'Prints a JSON object for each line'
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand bench" -s s -l size -d 'Bytes of payload' -r
complete -c ipc -n "__fish_ipc_using_subcommand bench" -s n -l count -d 'How many messages' -r
complete -c ipc -n "__fish_ipc_using_subcommand bench" -s c -l clients -d 'How many clients at the same time' -r
complete -c ipc -n "__fish_ipc_using_subcommand bench" -l to -d 'Where to connect, in place of what the environment says: another service, unix:PATH, or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand bench" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand bench" -l json -d 'Prints a JSON object for each line'
complete -c ipc -n "__fish_ipc_using_subcommand bench" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand run" -s r -l route -d 'Has connections to the service NAME go to TARGET: another service, or unix:PATH' -r
complete -c ipc -n "__fish_ipc_using_subcommand run" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand run" -l json -d 'Prints a JSON object for each line'
complete -c ipc -n "__fish_ipc_using_subcommand run" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand explain" -l to -d 'Where to connect, in place of what the environment says: another service, unix:PATH, or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand explain" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand explain" -l json -d 'Prints a JSON object for each line'
complete -c ipc -n "__fish_ipc_using_subcommand explain" -s h -l help -d 'Print help'
