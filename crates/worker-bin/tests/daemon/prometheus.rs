//! A real Prometheus reads the worker's figures: `promtool` takes their text and the alerts, and a server scrapes them over
//! TCP and answers what it is asked.

#![expect(clippy::print_stdout, reason = "a test that is left out says so")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};

/// The folder that has the programs.
const PROGRAMS: &str = "PROCURATOR_TEST_PROMETHEUS";
/// Leaves these tests out.
const SKIP: &str = "PROCURATOR_SKIP_PROMETHEUS_TESTS";

/// The path of one of Prometheus' programs; `None` where these tests are to be left out.
fn program(name: &str) -> Option<PathBuf> {
    if std::env::var_os(SKIP).is_some_and(|value| value == "1") {
        println!("SKIPPED: no real Prometheus ({SKIP}=1)");
        return None;
    }
    let told = std::env::var_os(PROGRAMS).map(PathBuf::from);
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = told.into_iter().chain(path.split(':').map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    Some(found.unwrap_or_else(|| {
        panic!("there is no {name}: `cargo xtask test` fetches it, {PROGRAMS} names its folder, {SKIP}=1 leaves this test out")
    }))
}

/// A port that nobody listens on in this test's own network.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

/// The answer to `request` on port `port` of this host, with its head.
fn ask(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    write!(stream, "{request}\r\nhost: w\r\nconnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

/// Runs `promtool` with `input`.
fn promtool(program: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("taken");
    child.wait_with_output().expect("ended")
}

/// A server that scrapes `target` each second, ended with this value.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(program: &Path, bench: &Bench, target: u16) -> Self {
        let port = free_port();
        let config = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: procurator\n    \
             static_configs: [{{ targets: ['127.0.0.1:{target}'] }}]\n"
        );
        let config_path = bench.path("prometheus.yml");
        fs::write(&config_path, config).expect("written");
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", config_path.display()));
        command.arg(format!("--storage.tsdb.path={}", bench.path("tsdb").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let log = File::create(bench.path("prometheus.log")).expect("created");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { child: command.spawn().expect("started"), port }
    }

    /// What it answers to `query`, as soon as it answers.
    fn query(&self, query: &str) -> Vec<Value> {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
            // A server that is still starting may break off.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
            let request = format!("GET /api/v1/query?query={query} HTTP/1.0\r\nhost: p\r\n\r\n");
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read_to_string(&mut text);
        }
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        let answer: Value = serde_json::from_str(body).unwrap_or_default();
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen_on(bench: &Bench, port: u16) {
    // A new network has this host's own addresses switched off.
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("package iproute2");
    assert!(up.success());
    let config =
        "stop_guests = true\nmetrics_poll_interval_seconds = 1\n[network]\nsubnet = '10.78.0.0/24'\n";
    bench.configure(&format!("{config}[metrics]\nlisten = '127.0.0.1:{port}'\n"));
}

#[test]
fn a_prometheus_scrapes_the_worker_and_answers_about_its_vms() {
    let (Some(server), Some(promtool_path)) = (program("prometheus"), program("promtool")) else { return };
    isolated(move |bench| {
        let port = free_port();
        listen_on(&bench, port);
        bench.assign(&[bench.vm("web-1", &TinyGuest::power_button())]);
        let _daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["web-1 running"]);

        let mut text = String::new();
        bench.until("it was sampled", || {
            text = String::from_utf8(bench.client(&["metrics"]).stdout).expect("text");
            text.contains("procurator_vm_vcpu_seconds_total{vm=\"web-1\",vcpu=\"0\"}")
        });
        let checked = promtool(&promtool_path, &["check", "metrics"], &text);
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

        let server = Server::start(&server, &bench, port);
        bench.until("the server has seen the VM run", || {
            let found = server.query("procurator_vm_phase%7Bphase%3D%22running%22%7D%3D%3D1");
            found.iter().any(|series| series["metric"]["vm"] == "web-1")
        });
        bench.until("totals have a type and grow from scrape to scrape", || {
            let found = server.query("max_over_time(procurator_vm_vcpu_exits_total%5B1m%5D)");
            found.iter().any(|series| series["metric"]["vcpu"] == "0")
        });
        let steps = server.query("histogram_quantile(0.5,procurator_start_step_duration_seconds_bucket)");
        assert!(!steps.is_empty(), "histograms are understood");
    });
}

#[test]
fn the_alerts_are_valid() {
    let Some(promtool_path) = program("promtool") else { return };
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/procurator.rules.yml");
    let checked = promtool(&promtool_path, &["check", "rules", &rules.display().to_string()], "");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn over_tcp_there_are_figures_and_nothing_else() {
    isolated(|bench| {
        let port = free_port();
        listen_on(&bench, port);
        bench.assign(&[]);
        let _daemon = bench.start();
        let answer = ask(port, "GET /metrics HTTP/1.1");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
        let plain = ask(port, "GET /metrics HTTP/1.1\r\naccept: text/plain");
        assert!(plain.contains("content-type: text/plain; version=0.0.4"), "{plain}");
        for request in ["GET /v1/vms HTTP/1.1", "GET / HTTP/1.1", "GET /v1/metrics HTTP/1.1"] {
            assert!(ask(port, request).starts_with("HTTP/1.1 404 "), "{request}");
        }
        assert!(ask(port, "POST /metrics HTTP/1.1").starts_with("HTTP/1.1 405 "));
        let rebound = ask(port, "GET /metrics HTTP/1.1\r\naccept-language: en");
        assert!(
            rebound.starts_with("HTTP/1.1 403 "),
            "a browser that takes this host for another: {rebound}"
        );
        // Clients that say nothing make room for one that asks.
        let idle: Vec<TcpStream> =
            (0..40).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connected")).collect();
        assert!(ask(port, "GET /metrics HTTP/1.1").starts_with("HTTP/1.1 200 "));
        drop(idle);
    });
}
