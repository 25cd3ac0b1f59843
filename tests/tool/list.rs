//! `ipc list`: what it says of living, dead, stopped and foreign servers, and that none of them notices.

use std::io::{ErrorKind, Read};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Instant;

use crate::staging::until;
use crate::support::{Place, is_stopped};

/// The line of a service, in words: NAME INDEX VERSION STATE OWNER CLIENTS WAITING PID.
fn row(place: &Place, arguments: &[&str], name: &str) -> Option<Vec<String>> {
    let printed = place.printed(arguments);
    let rows = printed.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let mut rows = rows.filter(|row| row[0] == name);
    let row = rows.next();
    assert_eq!(rows.next(), None, "{printed}");
    row
}

fn names(printed: &str) -> Vec<String> {
    printed
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join("-"))
        .collect()
}

#[test]
fn list_shows_service_with_its_clients_and_process() {
    let place = Place::new();
    let mut pongd = place.pongd();
    let _clients = [place.client("pongd"), place.client("pongd")];
    for _ in 0..2 {
        assert!(pongd.line().starts_with("CONNECTION"));
    }
    let printed = place.printed(&["list"]);
    assert_eq!(
        printed.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["NAME", "INDEX", "VERSION", "STATE", "OWNER", "CLIENTS", "WAITING", "PID"]
    );
    let row = row(&place, &["list"], "pongd").unwrap();
    assert_eq!(row[1..3], ["0", "0"]);
    assert_eq!(row[5..], ["2", "0", &pongd.id().to_string()], "{row:?}");
    // The directory may be an argument instead, and an option.
    let path = place.path().to_str().unwrap();
    for arguments in [&["list", path][..], &["--rundir", path, "list"], &["list", "--rundir", path]] {
        let mut command = Place::new().ipc(arguments);
        assert_eq!(crate::support::succeeds(&mut command), printed, "{arguments:?}");
    }
}

/// Neither list nor wait connects: a server would report a connection and a disconnection.
#[test]
fn list_and_wait_disturb_no_server() {
    let place = Place::new();
    let (mut pongd, own) = (place.pongd(), place.service("own"));
    for _ in 0..3 {
        place.printed(&["list", "--all"]);
        place.printed(&["--json", "list"]);
        place.printed(&["wait", "pongd"]);
        place.printed(&["wait", "own"]);
    }
    own.set_nonblocking(true).unwrap();
    assert_eq!(own.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    // The first event that the server reports is the test's own client.
    place.client("pongd").send(b"hello");
    for event in ["CONNECTION", "MESSAGE", "DISCONNECTION"] {
        let line = pongd.line();
        assert!(line.starts_with(event), "{line}");
    }
}

#[test]
fn list_shows_dead_service_with_all_alone() {
    let place = Place::new();
    let (living, dead) = (place.service("living"), place.service("dead"));
    drop(dead);
    let plain = place.printed(&["list"]);
    assert_eq!(names(&plain), ["living-0-0"]);
    for option in ["--all", "-a"] {
        let all = place.printed(&["list", option]);
        assert_eq!(names(&all), ["dead-0-0", "living-0-0"]);
        let state = |name| row(&place, &["list", option], name).unwrap()[3].clone();
        assert_eq!([state("dead"), state("living")], ["dead", "alive"]);
        assert_eq!(row(&place, &["list", option], "dead").unwrap()[7], "-", "{all}");
    }
    assert!(place.socket("dead").exists(), "it is the next server that removes the socket");
    drop(living);
}

/// A stopped server answers nothing, and list waits for nothing of it.
#[test]
fn list_shows_stopped_server_and_the_waiting_clients() {
    let place = Place::new();
    let pongd = place.pongd();
    let _beside = place.listen("beside", &[]);
    pongd.signal(libc::SIGSTOP);
    until("the server is stopped", || is_stopped(pongd.id()));
    let _waiting = [place.client("pongd"), place.client("pongd"), place.client("pongd")];
    let stopped = row(&place, &["list"], "pongd").unwrap();
    let running = row(&place, &["list"], "beside").unwrap();
    assert_eq!(stopped[5..], ["0", "3", &pongd.id().to_string()], "{stopped:?}");
    assert_eq!([&stopped[3], &running[3], &running[6]], ["stopped", "alive", "0"]);
    place.printed(&["wait", "pongd"]);
    pongd.signal(libc::SIGCONT);
    until("it accepts the clients", || row(&place, &["list"], "pongd").unwrap()[5..7] == ["3", "0"]);
}

/// Index and version are the last two numbers of a name. What is no service is no line.
#[test]
fn list_reads_names_from_the_right() {
    let place = Place::new();
    let sockets = ["plain-0-0", "two-words-3-4", "a-1-2-5-6", "-7-8-9", "x-0-2147483647"];
    let _services = sockets.map(|file| UnixListener::bind(place.path().join(file)).unwrap());
    let _none = ["nothing", "one-1", "words-a-b", "-1-2", "x-01-2", "x--1-2-"]
        .map(|file| UnixListener::bind(place.path().join(file)).unwrap());
    let _datagrams = UnixDatagram::bind(place.path().join("datagrams-0-0")).unwrap();
    std::fs::write(place.path().join("file-0-0"), "").unwrap();
    std::fs::create_dir(place.path().join("directory-0-0")).unwrap();
    let mut found = names(&place.printed(&["list"]));
    found.sort();
    let mut expected: Vec<_> = sockets.into_iter().chain(["datagrams-0-0"]).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(row(&place, &["list"], "datagrams").unwrap()[3], "foreign");
    assert_eq!(row(&place, &["list"], "two-words").unwrap()[..4], ["two-words", "3", "4", "alive"]);
}

/// A service of another program, which does not speak the protocol, is listed without a byte for it.
#[test]
fn list_shows_foreign_server_and_sends_it_nothing() {
    let place = Place::new();
    let listener = place.service("foreign");
    let mut own = UnixStream::connect(place.socket("foreign")).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    let row = row(&place, &["list"], "foreign").unwrap();
    assert_eq!(row[5..], ["1", "0", &std::process::id().to_string()], "{row:?}");
    std::io::Write::write_all(&mut own, b"x").unwrap();
    let mut bytes = [0; 2];
    assert_eq!(accepted.read(&mut bytes).unwrap(), 1);
}

#[test]
fn list_of_a_thousand_services_is_whole() {
    let limit = libc::rlimit { rlim_cur: 2048, rlim_max: 2048 };
    let mut before = limit;
    // SAFETY: both read or write a structure that outlives the call.
    let enough = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut before);
        before.rlim_cur = before.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &before) == 0 && before.rlim_max >= 2048
    };
    if !enough {
        return crate::staging::skipped("the list of 1,000 services", "limit of 2,048 descriptors");
    }
    let place = Place::new();
    let _services: Vec<_> = (0..1000).map(|number| place.service(&format!("service-{number}"))).collect();
    let begin = Instant::now();
    let printed = place.printed(&["list"]);
    eprintln!("ipc list of 1,000 services: {:.1} ms", begin.elapsed().as_secs_f64() * 1000.0);
    assert_eq!(names(&printed).len(), 1000);
    let own = std::process::id().to_string();
    assert!(printed.lines().skip(1).all(|line| line.ends_with(&own)), "{}", &printed[..200]);
}

#[test]
fn list_of_an_empty_or_a_missing_directory() {
    let place = Place::new();
    assert_eq!(names(&place.printed(&["list"])), [""; 0]);
    assert_eq!(place.printed(&["--json", "list"]), "");
    let missing = place.path().join("missing");
    let line = place.fails(1, &["list", missing.to_str().unwrap()]);
    assert!(line.contains("ENOENT"), "{line}");
}

#[test]
fn list_in_json_has_an_object_for_each_service() {
    let place = Place::new();
    let pongd = place.pongd();
    let _quoted = place.service("quo\"ted");
    let printed = place.printed(&["--json", "list"]);
    let [first, second] = printed.lines().collect::<Vec<_>>().try_into().unwrap();
    assert!(first.starts_with('{') && first.ends_with('}'), "{first}");
    for member in ["\"name\":\"pongd\"", "\"index\":0", "\"version\":0", "\"clients\":0", "\"waiting\":0"] {
        assert!(first.contains(member), "{first}");
    }
    assert!(first.contains(&format!("\"pid\":{}", pongd.id())), "{first}");
    assert!(second.contains(r#""name":"quo\"ted""#), "{second}");
}
