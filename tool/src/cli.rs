//! The command line: one function for each command, and readers for what options hold.
//!
//! Completions are made from it (`tool/completions`), and help; the page ipc(1) says the same at more length.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, OsStringValueParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};

use crate::error::Error;
use crate::service::Service;

/// The whole command line.
pub fn command() -> Command {
    Command::new("ipc")
        .version(env!("CARGO_PKG_VERSION"))
        .about("List services of libipc, send them messages, and show what programs say to them")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .args([
            Arg::new("rundir")
                .long("rundir")
                .value_name("DIR")
                .value_parser(value_parser!(OsString))
                .value_hint(ValueHint::DirPath)
                .global(true)
                .display_order(900)
                .help("The run directory, in place of IPC_RUNDIR or /run/ipc"),
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .global(true)
                .display_order(901)
                .help("Print each line as a JSON object"),
        ])
        .subcommands([list(), wait(), send(), listen(), chat(), monitor(), bench(), run(), explain()])
}

fn list() -> Command {
    Command::new("list").about("List the services of the run directory, without disturbing a server").args([
        flag("all", 'a', "List services whose server is dead, too"),
        Arg::new("dir")
            .value_name("DIR")
            .value_parser(value_parser!(OsString))
            .value_hint(ValueHint::DirPath)
            .help("A directory in place of the run directory"),
    ])
}

fn wait() -> Command {
    Command::new("wait").about("Wait until a service listens, without connecting to it").args([
        service(),
        long_flag("gone", "Wait until the service has ended"),
        timeout("Wait at most so long; exit status 124 then"),
        to(),
    ])
}

fn send() -> Command {
    Command::new("send").about("Send messages to a service, and print its answers").args([
        service(),
        message_type("The type of the messages"),
        Arg::new("file")
            .short('f')
            .long("file")
            .value_name("FILE")
            .value_parser(value_parser!(OsString))
            .value_hint(ValueHint::FilePath)
            .conflicts_with("data")
            .help("Send what the file holds, as one message; - is standard input"),
        long_flag("lines", "Send each line of the file or of standard input as a message"),
        number("wait", 'w', "N", "Wait for so many answers, and print them").default_value("0"),
        timeout("Take at most so long; exit status 124 then"),
        long_flag("raw", "Print the payload of answers as it is, and nothing else").conflicts_with("json"),
        to(),
        Arg::new("data")
            .value_name("DATA")
            .value_parser(value_parser!(OsString))
            .num_args(0..)
            .conflicts_with("lines")
            .help("The payload of a message; each is a message"),
    ])
}

fn listen() -> Command {
    Command::new("listen")
        .about("Open a service, and print what its clients do")
        .after_help(
            "A command of --exec has IPC_CLIENT, IPC_CLIENT_PID, IPC_CLIENT_UID and IPC_MESSAGE_TYPE in its\n\
             environment. If it fails the answer has type 1, and the reason is printed on standard error.",
        )
        .args([
            service().value_name("NAME"),
            message_type("The type of the answers, if not that of the message").default_value(None),
            long_flag("echo", "Answer each message with itself"),
            Arg::new("reply")
                .long("reply")
                .value_name("DATA")
                .value_parser(value_parser!(OsString))
                .conflicts_with("echo")
                .help("Answer each message with this"),
            Arg::new("exec")
                .long("exec")
                .value_name("CMD")
                .value_parser(value_parser!(OsString))
                .value_hint(ValueHint::CommandString)
                .conflicts_with_all(["echo", "reply"])
                .help("Run a shell command for each message: payload in, answer out"),
            number("count", 'n', "N", "End after so many messages"),
            Arg::new("mode")
                .long("mode")
                .value_name("OCTAL")
                .value_parser(octal())
                .help("The mode of the socket, such as 600, if not by the umask"),
        ])
}

fn chat() -> Command {
    Command::new("chat")
        .about("Send the lines of standard input, and print what the service sends")
        .after_help(
            "At the end of the input the connection is closed in this direction, as by `nc -N`: a service\n\
             answers what it has received, and closes it. With --wait it stays open for that time.",
        )
        .args([
            service(),
            message_type("The type of the messages"),
            seconds("wait", "After the input, wait this long for messages; else until the service closes")
                .short('w'),
            to(),
        ])
}

fn monitor() -> Command {
    Command::new("monitor")
        .about("Show the messages between a program and a service")
        .override_usage("ipc monitor [OPTIONS] <SERVICE> [-- <CMD>...]")
        .args([
            service(),
            number("count", 'n', "N", "End after so many messages"),
            timeout("End after this time, with exit status 124"),
            to(),
            command_line(false),
        ])
}

fn bench() -> Command {
    Command::new("bench")
        .about("Measure a service that answers each message with itself, or the library alone")
        .after_help(
            "MB/s: payload in one direction, while the echoes come back in the other. 1 MB is 10^6 bytes.",
        )
        .args([
            service().required(false),
            number("size", 's', "SIZE", "Bytes of payload").default_value("64"),
            number("count", 'n', "N", "How many messages"),
            number("clients", 'c', "CLIENTS", "How many clients at the same time").default_value("1"),
            to().requires("service"),
        ])
}

fn run() -> Command {
    Command::new("run")
        .about("Run a program, with other routes to services")
        .override_usage("ipc run [OPTIONS] [--] <CMD>...")
        .args([
            Arg::new("route")
                .short('r')
                .long("route")
                .value_name("NAME=TARGET")
                .value_parser(value_parser!(OsString))
                .action(ArgAction::Append)
                .help("Connect to TARGET, such as unix:PATH, in place of the service NAME"),
            command_line(true),
        ])
}

fn explain() -> Command {
    Command::new("explain")
        .about("Show step by step where a connection to a service goes, and why it fails")
        .args([service(), to()])
}

fn flag(name: &'static str, short: char, help: &'static str) -> Arg {
    long_flag(name, help).short(short)
}

fn long_flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn number(name: &'static str, short: char, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).short(short).long(name).value_name(value).value_parser(value_parser!(u64)).help(help)
}

fn service() -> Arg {
    let parse = |text: OsString| Service::parse(&text);
    Arg::new("service")
        .value_name("SERVICE")
        .value_parser(ValueParser::new(OsStringValueParser::new().try_map(parse)))
        .required(true)
        .help("The service: NAME or NAME-INDEX-VERSION")
}

fn message_type(help: &'static str) -> Arg {
    let parse = |text: String| {
        let number = match text.strip_prefix("0x") {
            Some(digits) => u8::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.map_err(|_| "not a number from 0 to 255")
    };
    Arg::new("type")
        .short('t')
        .long("type")
        .value_name("TYPE")
        .value_parser(ValueParser::new(NonEmptyStringValueParser::new().try_map(parse)))
        .default_value("2")
        .help(help)
}

fn timeout(help: &'static str) -> Arg {
    seconds("timeout", help)
}

fn seconds(name: &'static str, help: &'static str) -> Arg {
    let parse = |text: String| {
        let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds >= 0.0);
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or("not a number of seconds")
    };
    Arg::new(name)
        .long(name)
        .value_name("SECONDS")
        .value_parser(ValueParser::new(NonEmptyStringValueParser::new().try_map(parse)))
        .help(help)
}

fn octal() -> ValueParser {
    let parse = |text: String| {
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .ok_or("not an octal number from 0 to 777")
    };
    ValueParser::new(NonEmptyStringValueParser::new().try_map(parse))
}

fn to() -> Arg {
    Arg::new("to")
        .long("to")
        .value_name("TARGET")
        .value_parser(value_parser!(OsString))
        .help("Connect to another service, unix:PATH or direct:")
}

fn command_line(is_required: bool) -> Arg {
    Arg::new("command")
        .value_name("CMD")
        .value_parser(value_parser!(OsString))
        .num_args(1..)
        .trailing_var_arg(true)
        .allow_hyphen_values(true)
        .required(is_required)
        .value_hint(ValueHint::CommandWithArguments)
        .help("The program, and its arguments")
}

/// The variables of the environment that --rundir and --to stand for. They are set before anything else is
/// done.
pub fn variables(matches: &ArgMatches) -> Result<Vec<(OsString, OsString)>, Error> {
    let mut variables = Vec::new();
    if let Some(directory) = matches.get_one::<OsString>("rundir") {
        variables.push(("IPC_RUNDIR".into(), directory.clone()));
    }
    let Some((_, matches)) = matches.subcommand() else { return Ok(variables) };
    if let (Ok(Some(target)), Ok(Some(service))) =
        (matches.try_get_one::<OsString>("to"), matches.try_get_one::<Service>("service"))
    {
        if service.name == "network" {
            return Err(Error::usage("the service network is never rerouted: --to has no effect"));
        }
        variables.push((service.variable(), target.clone()));
    }
    Ok(variables)
}

/// Whether --json is given.
pub fn is_json(matches: &ArgMatches) -> bool {
    matches.get_flag("json")
}

/// The service of a command that has one. Where --to sends it is in the environment already.
pub fn service_of(matches: &ArgMatches) -> Result<&Service, Error> {
    matches.get_one("service").ok_or_else(|| Error::usage("no service is given"))
}

/// The type of --type, or its default.
pub fn type_of(matches: &ArgMatches) -> Option<u8> {
    matches.get_one("type").copied()
}

/// The time of --timeout.
pub fn timeout_of(matches: &ArgMatches) -> Option<Duration> {
    matches.get_one("timeout").copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap_complete::Shell;
    use std::path::Path;

    #[test]
    fn command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn version_is_that_of_the_library() {
        let version =
            |manifest: &str| manifest.lines().find(|line| line.starts_with("version = ")).map(str::to_owned);
        assert_eq!(version(include_str!("../Cargo.toml")), version(include_str!("../../Cargo.toml")));
    }

    #[test]
    fn completions_are_those_of_the_command_line() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("completions");
        for (shell, file) in [(Shell::Bash, "ipc.bash"), (Shell::Zsh, "_ipc"), (Shell::Fish, "ipc.fish")] {
            let mut made = Vec::new();
            clap_complete::generate(shell, &mut command(), "ipc", &mut made);
            if std::env::var_os("IPC_WRITE_COMPLETIONS").is_some() {
                std::fs::write(directory.join(file), &made).unwrap();
            }
            let is_equal = std::fs::read(directory.join(file)).is_ok_and(|checked_in| checked_in == made);
            assert!(
                is_equal,
                "tool/completions/{file} is not what the command line makes: \
                 IPC_WRITE_COMPLETIONS=1 cargo test -p libipc-tool completions"
            );
        }
    }
}
