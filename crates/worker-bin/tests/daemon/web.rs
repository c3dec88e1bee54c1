//! The page's doors, asked by a real curl: which requests are answered at the sockets and at an address of its own.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use data_encoding::BASE64;
use rcgen::generate_simple_self_signed;
use rustix::process::Signal;
use serde_json::Value;
use tiny_guest::TinyGuest;

use crate::bench::{Bench, DEADLINE, isolated, raise_loopback};

/// What the address wants to be shown.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// A nonce of a WebSocket and what it is answered with (RFC 6455 § 1.3).
const NONCE: (&str, &str) = ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

/// An answer: its status, its head and its body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// Has curl ask with `arguments`.
fn curl(arguments: &[&str]) -> Answer {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--include", "--insecure", "--max-time", "60"])
        .args(arguments)
        .output()
        .expect("package curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Gives the worker that is started next an address for the page, with what `more` says of it; where that is.
pub(crate) fn with_address(bench: &Bench, more: &str) -> String {
    raise_loopback();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    certify(bench, "first.example");
    fs::write(bench.path("token"), format!("{TOKEN}\n")).expect("written");
    fs::set_permissions(bench.path("token"), Permissions::from_mode(0o600)).expect("set");
    let [certificate, key, token] =
        ["page.pem", "page.key", "token"].map(|name| bench.path(name).display().to_string());
    bench.configure(&format!(
        "stop_guests = true\nmetrics_poll_interval_seconds = 1\n[admin]\nread_group = '0'\n[network]\nsubnet = '10.78.0.0/24'\n\
         [web]\nlisten = '{address}'\ncertificate = '{certificate}'\nkey = '{key}'\ntoken_file = '{token}'\n{more}"
    ));
    address.to_string()
}

/// Makes the page's certificate one of `name`.
fn certify(bench: &Bench, name: &str) {
    let made = generate_simple_self_signed([name.to_owned()]).expect("made");
    for (file, text) in [("page.key", made.signing_key.serialize_pem()), ("page.pem", made.cert.pem())] {
        fs::write(bench.path("new"), text).expect("written");
        fs::set_permissions(bench.path("new"), Permissions::from_mode(0o600)).expect("set");
        fs::rename(bench.path("new"), bench.path(file)).expect("replaced");
    }
}

#[test]
fn sockets_show_the_page_and_answer_no_other_site() {
    isolated(|bench| {
        with_address(&bench, "");
        let _daemon = bench.start();
        let [full, read] =
            ["run/worker.sock", "run/worker-read.sock"].map(|name| bench.path(name).display().to_string());
        let ask = |socket: &str, more: &[&str]| curl(&[&["--unix-socket", socket], more].concat());

        let page = ask(&full, &["http://localhost:8080/"]);
        assert_eq!(page.status, 200, "{}", page.head);
        assert!(page.body.contains("/page/main.js"), "{}", page.body);
        for header in [
            "content-security-policy: default-src 'self'",
            "x-content-type-options: nosniff",
            "frame-ancestors 'none'",
        ] {
            assert!(page.head.contains(header), "{header} is not in {}", page.head);
        }
        let script = ask(&read, &["http://localhost/page/main.js"]);
        assert!(
            script.status == 200 && script.head.contains("content-type: text/javascript"),
            "{}",
            script.head
        );
        assert_eq!(ask(&full, &["http://w/page/none.js"]).status, 404);
        for (socket, access) in [(&full, "full"), (&read, "read_only")] {
            let status = ask(socket, &["http://worker/v1/status"]);
            assert!(status.body.contains(&format!("\"access\":\"{access}\"")), "{}", status.body);
        }

        let url = "http://localhost:8080/v1/gc";
        for foreign in [
            "origin: http://evil.example",
            "origin: null",
            "sec-fetch-site: cross-site",
            "host: evil.example",
        ] {
            let answer = ask(&full, &["-X", "POST", "-H", foreign, url]);
            assert!(answer.status == 403 && answer.body.contains("other_site"), "{foreign}: {}", answer.body);
            assert!(answer.head.contains("nosniff"), "{}", answer.head);
        }
        let own = [
            "-X",
            "POST",
            "-d",
            "{\"which\": \"all\"}",
            "-H",
            "origin: http://localhost:8080",
            "-H",
            "sec-fetch-site: same-origin",
            url,
        ];
        assert_eq!(ask(&full, &own).status, 200, "the page's own");
        assert_eq!(
            ask(&full, &["-H", "accept-language: en", "http://worker/v1/vms"]).status,
            403,
            "a browser's"
        );
        assert_eq!(ask(&full, &["http://worker/v1/vms"]).status, 200, "a program's");
    });
}

#[test]
fn a_browser_attaches_to_a_console_by_a_web_socket() {
    isolated(|bench| {
        with_address(&bench, "");
        bench.assign(&[bench.vm("a", &TinyGuest::echo())]);
        let _daemon = bench.start();
        bench.until("it has spoken", || bench.client(&["logs", "a"]).stdout.ends_with(b"ready\n"));
        let connect = |origin: &str| {
            let mut stream = UnixStream::connect(bench.path("run/worker.sock")).expect("connected");
            stream.set_read_timeout(Some(DEADLINE)).expect("set");
            write!(
                stream,
                "GET /v1/vms/a/console/attach?follow=true&pen=ask HTTP/1.1\r\nhost: localhost:1\r\norigin: {origin}\r\n\
                 connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {}\r\n\
                 sec-websocket-protocol: procurator-console\r\n\r\n",
                NONCE.0
            )
            .expect("sent");
            stream
        };
        let until_has = |stream: &mut UnixStream, words: &[u8]| {
            let (mut seen, mut bytes) = (Vec::new(), [0; 4096]);
            while !seen.windows(words.len()).any(|window| window == words) {
                let count = stream.read(&mut bytes).expect("read in time");
                assert_ne!(count, 0, "it ended with {:?}", String::from_utf8_lossy(&seen));
                seen.extend(&bytes[..count]);
            }
            String::from_utf8_lossy(&seen).into_owned()
        };
        let refused = until_has(&mut connect("http://evil.example"), b"other_site");
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");

        let mut stream = connect("http://localhost:1");
        let answer = until_has(&mut stream, b"ready\n");
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        assert!(answer.contains(NONCE.1) && answer.contains("procurator-console"), "{answer}");
        // A binary message, masked with zeros (RFC 6455 § 5.2), with a frame of input.
        let typed = b"\x01\x00\x05hello";
        let head = [0x82, 0x80 | u8::try_from(typed.len()).expect("short"), 0, 0, 0, 0];
        stream.write_all(&[&head[..], typed].concat()).expect("sent");
        until_has(&mut stream, b"hello");
        drop(stream);
        // A frame that says it has 16 MiB is not waited for, and one that is not masked is no browser's.
        for head in [&[0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &[0x82, 4, 1, 0, 1, b'x']] {
            let mut stream = connect("http://localhost:1");
            until_has(&mut stream, b"ready\n");
            stream.write_all(head).expect("sent");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("it ends in time");
        }
        bench.until("the pen is free again", || {
            let mut stream = connect("http://localhost:1");
            // Place, then pen: kind 4, one byte, which is 1 for who has it.
            let answer = until_has(&mut stream, b"\x04\x00");
            answer.contains("\u{4}\0\u{1}\u{1}")
        });
    });
}

/// Log, events and list name who stopped a VM by an address, and no user that nobody is.
fn names_who_came_by_address(bench: &Bench) {
    assert!(bench.log().contains("address=127.0.0.1"), "who asked is audited: {}", bench.log());
    let events = String::from_utf8_lossy(&bench.client(&["events"]).stdout).into_owned();
    assert!(events.contains("stop was asked for by address 127.0.0.1"), "{events}");
    let audited = bench.log();
    let ended = audited.lines().find(|line| line.contains("audit: done")).expect("audited").to_owned();
    assert!(ended.contains("address=127.0.0.1"), "{ended}");
    let listed = String::from_utf8_lossy(&bench.client(&["ls"]).stdout).into_owned();
    for said in [&audited, &listed] {
        assert!(!said.contains("4294967295"), "nobody is that user: {said}");
    }
}

#[test]
fn an_address_of_its_own_wants_the_token() {
    isolated(|bench| {
        let address = with_address(&bench, "");
        bench.assign(&[bench.vm("a", &TinyGuest::idle())]);
        let _daemon = bench.start();
        let url = |path: &str| format!("https://{address}{path}");
        let bearer = |token: &str| format!("authorization: Bearer {token}");

        assert_eq!(curl(&[&url("/")]).status, 200, "the page holds nothing");
        let refused = curl(&[&url("/v1/vms")]);
        assert!(refused.status == 401 && refused.body.contains("login_needed"), "{}", refused.body);
        assert_eq!(curl(&["--tls-max", "1.2", &url("/")]).status, 0, "no TLS before 1.3");
        assert_eq!(curl(&["-H", &bearer(TOKEN), &url("/v1/vms")]).status, 200);
        let foreign = ["-H", &bearer(TOKEN), "-H", "origin: https://evil.example", &url("/v1/vms")];
        assert_eq!(curl(&foreign).status, 403, "not even with the token");

        let jar = bench.path("jar").display().to_string();
        let login = ["--cookie-jar", &jar, "-d", &format!("{{\"token\": \"{TOKEN}\"}}"), &url("/login")];
        let let_in = curl(&login);
        assert_eq!(let_in.status, 200, "{}", let_in.body);
        for word in ["httponly", "secure", "samesite=strict", "__host-"] {
            assert!(let_in.head.contains(word), "{word} is not in {}", let_in.head);
        }
        let answer: Value = serde_json::from_str(&let_in.body).expect("JSON");
        let shown = format!("x-procurator-session: {}", answer["session"].as_str().expect("text"));
        let cookie_alone = curl(&["--cookie", &jar, &url("/v1/vms")]);
        assert_eq!(cookie_alone.status, 401, "whoever listens at another port of this host gets it");
        assert_eq!(curl(&["-H", &shown, &url("/v1/vms")]).status, 401, "nor will the other part do alone");
        let known = ["--cookie", &jar, "-H", &shown];
        let ask = |more: &[&str]| curl(&[&known, more].concat());
        assert_eq!(ask(&[&url("/v1/vms")]).status, 200);
        let stop = ask(&["-d", "{\"force\": true}", &url("/v1/vms/a/stop")]);
        assert_eq!(stop.status, 200, "{}", stop.body);
        names_who_came_by_address(&bench);
        curl(&["--cookie", &jar, "-X", "POST", &url("/logout")]);
        assert_eq!(ask(&[&url("/v1/vms")]).status, 200, "a cookie alone logs nobody out");
        assert_eq!(ask(&["-X", "POST", &url("/logout")]).status, 204);
        assert_eq!(ask(&[&url("/v1/vms")]).status, 401, "the session has ended");

        for _ in 0..5 {
            assert_eq!(curl(&["-H", &bearer("guess"), &url("/v1/vms")]).status, 401);
        }
        let late = curl(&["-H", &bearer("guess"), &url("/v1/vms")]);
        assert!(late.status == 503 && late.body.contains("too many wrong tokens"), "{}", late.body);
        let right = curl(&["-H", &bearer(TOKEN), &url("/v1/vms")]);
        assert_eq!(right.status, 200, "nobody shuts out who knows it");
        assert!(!bench.log().contains(TOKEN) && !bench.log().contains("guess"), "no token is in the log");

        certify(&bench, "second.example");
        let port = address.rsplit(':').next().expect("a port");
        let resolve = format!("second.example:{port}:127.0.0.1");
        let named = format!("https://second.example:{port}/");
        let authority = bench.path("page.pem").display().to_string();
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--cacert", &authority, "--resolve", &resolve, &named])
            .output()
            .expect("package curl");
        assert!(
            output.status.success(),
            "a renewed certificate is shown at once: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    });
}

/// A TLS client that has asked `address` for `path` with `headers` and was answered with `status`; cut off after a minute.
fn following(address: &str, path: &str, headers: &str, status: &str) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new("timeout");
    command.args(["60", "openssl", "s_client", "-quiet", "-connect", address]).stderr(Stdio::null());
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("package openssl");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n\r\n");
    client.stdin.as_mut().expect("piped").write_all(request.as_bytes()).expect("sent");
    let mut answer = BufReader::new(client.stdout.take().expect("piped"));
    let mut first = String::new();
    answer.read_line(&mut first).expect("text");
    assert!(first.contains(status), "{path}: {first}");
    (client, answer)
}

#[test]
fn with_a_session_end_the_streams_and_consoles_that_it_began() {
    isolated(|bench| {
        let address = with_address(&bench, "");
        bench.assign(&[bench.vm("a", &TinyGuest::echo())]);
        let _daemon = bench.start();
        bench.until("it has spoken", || bench.client(&["logs", "a"]).stdout.ends_with(b"ready\n"));
        let jar = bench.path("jar").display().to_string();
        let url = |path: &str| format!("https://{address}{path}");
        let token = format!("{{\"token\": \"{TOKEN}\"}}");
        let let_in = curl(&["--cookie-jar", &jar, "-d", &token, &url("/login")]);
        let answer: Value = serde_json::from_str(&let_in.body).expect("JSON");
        let session = answer["session"].as_str().expect("text");
        let kept = fs::read_to_string(&jar).expect("kept");
        let cookie =
            format!("cookie: __Host-procurator={}", kept.split_whitespace().last().expect("a value"));

        let shown = format!("{cookie}\r\nconnection: close\r\nx-procurator-session: {session}");
        let stream = following(&address, "/v1/events?follow=true", &shown, " 200 ");
        let upgrade = format!(
            "{cookie}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {}\r\n\
             sec-websocket-protocol: procurator-console, procurator-session.{session}",
            NONCE.0
        );
        let attach = "/v1/vms/a/console/attach?follow=true&pen=ask";
        let console = following(&address, attach, &upgrade, " 101 ");
        let header = format!("x-procurator-session: {session}");
        assert_eq!(curl(&["--cookie", &jar, "-H", &header, "-X", "POST", &url("/logout")]).status, 204);
        for (mut client, mut answer) in [stream, console] {
            answer.read_to_end(&mut Vec::new()).expect("it ends");
            assert_ne!(
                client.wait().expect("it is ours").code(),
                Some(124),
                "cut off by nobody but the worker"
            );
        }
        let mut typist = Command::new(&bench.program);
        typist.args(["console", "a", "--tail", "0", "--runtime-dir"]).arg(bench.path("run")).env_clear();
        let said = typist.stdin(Stdio::null()).output().expect("started");
        assert!(said.status.success(), "the pen is free: {}", String::from_utf8_lossy(&said.stderr));
    });
}

#[test]
fn a_page_that_only_shows_changes_nothing() {
    isolated(|bench| {
        let address = with_address(&bench, "read_only = true\n");
        bench.assign(&[bench.vm("a", &TinyGuest::idle())]);
        let _daemon = bench.start();
        let bearer = format!("authorization: Bearer {TOKEN}");
        let stop = curl(&["-H", &bearer, "-X", "POST", &format!("https://{address}/v1/vms/a/stop")]);
        assert!(stop.status == 403 && stop.body.contains("web.read_only"), "{}", stop.body);
        bench.until("it runs on", || bench.phases() == ["a running"]);
        let status = curl(&["-H", &bearer, &format!("https://{address}/v1/status")]);
        assert!(status.body.contains("\"access\":\"read_only\""), "{}", status.body);
    });
}

/// What the worker says is not as it should be.
fn degradations(bench: &Bench) -> String {
    bench.status()["degradations"].to_string()
}

#[test]
fn addresses_in_use_and_files_that_cannot_be_used_keep_no_vm_from_running() {
    isolated(|bench| {
        let address = with_address(&bench, "");
        let metrics = TcpListener::bind("127.0.0.1:0").expect("a port");
        let scraped = metrics.local_addr().expect("bound").to_string();
        let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.configure(&format!("{config}[metrics]\nlisten = '{scraped}'\n"));
        fs::set_permissions(bench.path("token"), Permissions::from_mode(0o644)).expect("set");
        bench.assign(&[bench.vm("a", &TinyGuest::idle())]);
        let daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let told = degradations(&bench);
        for words in [scraped.as_str(), "metrics.listen", "in use", "web.token_file", "mode 0644"] {
            assert!(told.contains(words), "{words} is not in {told}");
        }
        let shown = String::from_utf8_lossy(&bench.client(&["status"]).stdout).into_owned();
        assert!(shown.contains("note: the page is not shown"), "{shown}");
        let doctor = String::from_utf8_lossy(&bench.client(&["doctor"]).stdout).into_owned();
        assert!(doctor.contains("metrics are given nowhere"), "{doctor}");

        drop(metrics);
        bench.until("figures are given", || curl(&[&format!("http://{scraped}/metrics")]).status == 200);
        fs::set_permissions(bench.path("token"), Permissions::from_mode(0o600)).expect("set");
        daemon.signal(Signal::HUP);
        bench.until("the page is shown", || curl(&[&format!("https://{address}/")]).status == 200);
        assert_eq!(degradations(&bench), "[]");
        for told in ["metrics are given at metrics.listen now", "the page is shown at web.listen now"] {
            assert!(bench.log().contains(told), "{told}: {}", bench.log());
        }
    });
}

/// A certificate like that of the page, which says of itself that it is of version 2 of X.509.
fn of_an_earlier_version() -> String {
    let mut der = generate_simple_self_signed(["w1.example".to_owned()]).expect("made").cert.der().to_vec();
    // RFC 5280 § 4.1: the version is explicitly tagged, and 2 is version 3.
    let version = [0xa0, 3, 2, 1, 2];
    let place = der.windows(version.len()).position(|bytes| bytes == version).expect("it has a version");
    der[place + version.len() - 1] = 1;
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(&der))
}

#[test]
fn a_damaged_new_certificate_is_told_of_while_the_one_before_is_shown() {
    isolated(|bench| {
        let address = with_address(&bench, "");
        let _daemon = bench.start();
        fs::write(bench.path("page.pem"), "no certificate").expect("written");
        bench.until("it is told without a client", || {
            degradations(&bench).contains("changed certificate cannot be used")
        });
        assert_eq!(curl(&[&format!("https://{address}/")]).status, 200);
        fs::write(bench.path("page.pem"), of_an_earlier_version()).expect("written");
        bench.until("what is wrong is told", || {
            degradations(&bench).contains(
                "page.pem holds no usable certificate in PEM form: it is of an earlier version of X.509",
            )
        });
        certify(&bench, "second.example");
        bench.until("the next is taken", || degradations(&bench) == "[]");
    });
}

#[test]
fn who_may_only_look_need_not_name_the_socket_for_that() {
    isolated(|mut bench| {
        with_address(&bench, "");
        let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.configure(&config.replace("read_group = '0'", "read_group = '65534'"));
        bench.assign(&[]);
        // Where everybody can reach it.
        let program = bench.path("procurator-worker");
        fs::copy(&bench.program, &program).expect("copied");
        bench.program = program;
        fs::set_permissions(bench.path(""), Permissions::from_mode(0o755)).expect("opened");
        let _daemon = bench.start();
        let ask = |verb: &[&str]| {
            let mut command = Command::new(&bench.program);
            command.args(verb).arg("--runtime-dir").arg(bench.path("run")).env_clear().uid(65534).gid(65534);
            command.output().expect("started")
        };
        let looked = ask(&["ls"]);
        assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
        let refused = ask(&["gc", "--all"]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains("worker.sock is not for this user"), "{told}");
    });
}

#[test]
fn sockets_that_somebody_removes_come_back() {
    isolated(|bench| {
        with_address(&bench, "");
        bench.assign(&[]);
        let _daemon = bench.start();
        for name in ["run/worker.sock", "run/worker-read.sock"] {
            fs::remove_file(bench.path(name)).expect("removed");
        }
        bench.until("it answers again", || bench.client(&["ls"]).status.success());
        let read = bench.path("run/worker-read.sock").display().to_string();
        bench.until("to readers too", || {
            curl(&["--unix-socket", &read, "http://worker/v1/status"]).status == 200
        });
        assert!(bench.log().contains("was removed, and was made again"), "{}", bench.log());
    });
}
