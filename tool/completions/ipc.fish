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
complete -c ipc -n "__fish_ipc_needs_command" -l json -d 'Print each line as a JSON object'
complete -c ipc -n "__fish_ipc_needs_command" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_needs_command" -s V -l version -d 'Print version'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "list" -d 'List the services of the run directory, without disturbing a server'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "wait" -d 'Wait until a service listens, without connecting to it'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "send" -d 'Send messages to a service, and print its answers'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "listen" -d 'Open a service, and print what its clients do'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "chat" -d 'Send the lines of standard input, and print what the service sends'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "monitor" -d 'Show the messages between a program and a service'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "bench" -d 'Measure a service that answers each message with itself, or the library alone'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "run" -d 'Run a program, with other routes to services'
complete -c ipc -n "__fish_ipc_needs_command" -f -a "explain" -d 'Show step by step where a connection to a service goes, and why it fails'
complete -c ipc -n "__fish_ipc_using_subcommand list" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand list" -s a -l all -d 'List services whose server is dead, too'
complete -c ipc -n "__fish_ipc_using_subcommand list" -l json -d 'Print each line as a JSON object'
complete -c ipc -n "__fish_ipc_using_subcommand list" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand wait" -l timeout -d 'Wait at most so long; exit status 124 then' -r
complete -c ipc -n "__fish_ipc_using_subcommand wait" -l to -d 'Connect to another service, unix:PATH or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand wait" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand wait" -l gone -d 'Wait until the service has ended'
complete -c ipc -n "__fish_ipc_using_subcommand wait" -l json -d 'Print each line as a JSON object'
complete -c ipc -n "__fish_ipc_using_subcommand wait" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand send" -s t -l type -d 'The type of the messages' -r
complete -c ipc -n "__fish_ipc_using_subcommand send" -s f -l file -d 'Send what the file holds, as one message; - is standard input' -r -F
complete -c ipc -n "__fish_ipc_using_subcommand send" -s w -l wait -d 'Wait for so many answers, and print them' -r
complete -c ipc -n "__fish_ipc_using_subcommand send" -l timeout -d 'Take at most so long; exit status 124 then' -r
complete -c ipc -n "__fish_ipc_using_subcommand send" -l to -d 'Connect to another service, unix:PATH or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand send" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand send" -l lines -d 'Send each line of the file or of standard input as a message'
complete -c ipc -n "__fish_ipc_using_subcommand send" -l raw -d 'Print the payload of answers as it is, and nothing else'
complete -c ipc -n "__fish_ipc_using_subcommand send" -l json -d 'Print each line as a JSON object'
complete -c ipc -n "__fish_ipc_using_subcommand send" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand listen" -s t -l type -d 'The type of the answers, if not that of the message' -r
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l reply -d 'Answer each message with this' -r
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l exec -d 'Run a shell command for each message: payload in, answer out' -r -f -a "(__fish_complete_command)"
complete -c ipc -n "__fish_ipc_using_subcommand listen" -s n -l count -d 'End after so many messages' -r
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l mode -d 'The mode of the socket, such as 600, if not by the umask' -r
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l echo -d 'Answer each message with itself'
complete -c ipc -n "__fish_ipc_using_subcommand listen" -l json -d 'Print each line as a JSON object'
complete -c ipc -n "__fish_ipc_using_subcommand listen" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand chat" -s t -l type -d 'The type of the messages' -r
complete -c ipc -n "__fish_ipc_using_subcommand chat" -s w -l wait -d 'After the input, wait this long for messages; else until the service closes' -r
complete -c ipc -n "__fish_ipc_using_subcommand chat" -l to -d 'Connect to another service, unix:PATH or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand chat" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand chat" -l json -d 'Print each line as a JSON object'
complete -c ipc -n "__fish_ipc_using_subcommand chat" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -s n -l count -d 'End after so many messages' -r
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -l timeout -d 'End after this time, with exit status 124' -r
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -l to -d 'Connect to another service, unix:PATH or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -l json -d 'Print each line as a JSON object'
complete -c ipc -n "__fish_ipc_using_subcommand monitor" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand bench" -s s -l size -d 'Bytes of payload' -r
complete -c ipc -n "__fish_ipc_using_subcommand bench" -s n -l count -d 'How many messages' -r
complete -c ipc -n "__fish_ipc_using_subcommand bench" -s c -l clients -d 'How many clients at the same time' -r
complete -c ipc -n "__fish_ipc_using_subcommand bench" -l to -d 'Connect to another service, unix:PATH or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand bench" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand bench" -l json -d 'Print each line as a JSON object'
complete -c ipc -n "__fish_ipc_using_subcommand bench" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand run" -s r -l route -d 'Connect to TARGET, such as unix:PATH, in place of the service NAME' -r
complete -c ipc -n "__fish_ipc_using_subcommand run" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand run" -l json -d 'Print each line as a JSON object'
complete -c ipc -n "__fish_ipc_using_subcommand run" -s h -l help -d 'Print help'
complete -c ipc -n "__fish_ipc_using_subcommand explain" -l to -d 'Connect to another service, unix:PATH or direct:' -r
complete -c ipc -n "__fish_ipc_using_subcommand explain" -l rundir -d 'The run directory, in place of IPC_RUNDIR or /run/ipc' -r -f -a "(__fish_complete_directories)"
complete -c ipc -n "__fish_ipc_using_subcommand explain" -l json -d 'Print each line as a JSON object'
complete -c ipc -n "__fish_ipc_using_subcommand explain" -s h -l help -d 'Print help'
