//! The page in a real browser: what it shows of real guests, what is typed at them, and all of it by the keyboard alone.

use std::fs;
use std::io::{Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::spawn;
use std::time::Instant;

use data_encoding::BASE64;
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated, raise_loopback};
use crate::browser::{Browser, Colours};
use crate::web::with_address;

/// Where pictures for the documentation are put, where they are wanted.
const PICTURES: &str = "PROCURATOR_PAGE_PICTURES";
/// Samples that a plot has in a picture.
const SAMPLES: u32 = 40;

/// Forwards a port of this test's network to the socket at `path`, as `ssh -L` does; the page's address there.
fn forward(path: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a client");
            // Whoever asks while the worker is away is sent away.
            if let Ok(worker) = UnixStream::connect(&path) {
                relay(client, worker);
            }
        }
    });
    format!("http://localhost:{}/", address.port())
}

fn relay(client: TcpStream, worker: UnixStream) {
    let (mut from_client, mut to_client) = (client.try_clone().expect("cloned"), client);
    let (mut from_worker, mut to_worker) = (worker.try_clone().expect("cloned"), worker);
    spawn(move || {
        let _ = copy(&mut from_client, &mut to_worker);
        let _ = to_worker.shutdown(Shutdown::Write);
    });
    spawn(move || {
        let _ = copy(&mut from_worker, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
}

/// A worker that samples each second, on a host whose own addresses work.
fn prepare(bench: &Bench) {
    raise_loopback();
    bench.configure(
        "stop_guests = true\nmetrics_poll_interval_seconds = 1\n[network]\nsubnet = '10.78.0.0/24'\n",
    );
}

/// A VM `id` whose guest writes to its disk and reads from it without a pause.
fn churning(bench: &Bench, id: &str) -> Value {
    let disks = json!({ "disks": [{ "path": "disk.img" }] });
    let artifact = bench.artifact(id, &TinyGuest::churn(), &disks, &"\0".repeat(4096));
    json!({ "id": id, "hash": artifact.hash, "store_path": artifact.path })
}

/// Keeps what `browser` shows as picture `name`, where pictures are wanted.
fn keep(browser: &mut Browser, name: &str) {
    let Some(folder) = std::env::var_os(PICTURES) else { return };
    let picture = BASE64.decode(browser.picture().as_bytes()).expect("base 64");
    fs::write(Path::new(&folder).join(format!("page-{name}.png")), picture).expect("written");
}

/// Waits until plots have as many samples as a picture should have.
fn fill(browser: &mut Browser) {
    if std::env::var_os(PICTURES).is_some() {
        browser.until(&format!(
            "document.querySelector('.curve')?.getAttribute('points').split(' ').length >= {SAMPLES}"
        ));
    }
}

const FOCUSED_VM: &str = "(document.activeElement?.dataset?.vm ?? '')";

/// Counts from now on how often something is changed in cells of a VM: one with a curve, and the one with its phase.
const COUNT_CHANGES: &str = "(() => {
    globalThis.changes = { '.use': 0, '.state': 0 };
    for (const cell of Object.keys(changes)) {
        const element = document.querySelector(`tr[data-vm=batch-1] ${cell}`);
        const observer = new MutationObserver((records) => { changes[cell] += records.length; });
        observer.observe(element, { attributes: true, characterData: true, childList: true, subtree: true });
    }
    return 0;
})()";

fn moves_a_curve(browser: &mut Browser) {
    let curve = "document.querySelector('tr[data-vm=batch-1] .curve').getAttribute('points')";
    browser.until(&format!("{curve}.split(' ').length > 2"));
    let before = browser.value(curve);
    browser.until(&format!("{curve} !== {before}"));
}

fn leaves_alone_what_is_as_it_was(browser: &mut Browser) {
    browser.value(COUNT_CHANGES);
    browser.until("changes['.use'] > 20");
    assert_eq!(browser.value("changes['.state']"), json!(0));
}

#[test]
fn vms_are_watched_and_typed_at_by_the_keyboard_alone() {
    isolated(|bench| {
        prepare(&bench);
        let (web, batch, db) = (TinyGuest::echo(), TinyGuest::spin(), churning(&bench, "db-1"));
        let hostile = TinyGuest::hello("<img src=x onerror=alert(1)>\u{1b}]0;owned\u{7}\n");
        bench.assign(&[
            bench.vm("web-1", &web),
            bench.vm("web-2", &TinyGuest::idle()),
            bench.vm("batch-1", &batch),
            db,
            bench.vm("job-1", &hostile),
        ]);
        let _daemon = bench.start();
        let Some(mut browser) = Browser::start(&bench) else { return };
        browser.open(&forward(bench.path("run/worker.sock")));

        // The list, and curves that move.
        for (vm, phase) in [("web-1", "running"), ("db-1", "running"), ("job-1", "stopped")] {
            browser.until_shows(&format!("tr[data-vm={vm}] .phase"), phase);
        }
        moves_a_curve(&mut browser);
        browser.until("parseFloat(document.querySelector('tr[data-vm=batch-1] .figure').innerText) > 1");
        leaves_alone_what_is_as_it_was(&mut browser);
        fill(&mut browser);
        keep(&mut browser, "list");

        // To a VM: its name is filtered for, Enter goes to what is left, Enter opens it.
        browser.press("/");
        browser.type_in("web");
        browser.until_shows(".count", "2 of 5 VMs");
        browser.press("Enter");
        browser.until(&format!("{FOCUSED_VM} === 'web-1'"));
        browser.press("j");
        assert_eq!(browser.value(FOCUSED_VM), json!("web-2"));
        browser.press("k");
        browser.press("Enter");
        browser.until_shows("h2", "web-1");
        browser.until_shows("dl", "1 vCPU, 32 MiB");
        fill(&mut browser);
        keep(&mut browser, "vm");

        // Its console.
        browser.press("c");
        browser.until_shows(".pen", "You type");
        browser.until_shows(".xterm-rows", "ready");
        browser.type_in("uptime");
        browser.until_shows(".xterm-rows", "uptime");
        let said = bench.client(&["logs", "web-1"]).stdout;
        assert!(String::from_utf8_lossy(&said).contains("uptime"), "the guest has read it");
        keep(&mut browser, "console");
        // Keys are the guest's until Ctrl ].
        browser.type_in("?1");
        browser.until_shows(".xterm-rows", "?1");
        assert_eq!(browser.text("dialog"), "");
        browser.press_ctrl("]");
        browser.until("document.activeElement.id === 'tab-console'");

        // What was ordered stands among the events; Esc leads back to where one was.
        browser.press("e");
        browser.until_shows(".events", "console was asked for");
        browser.press("Escape");
        browser.until(&format!("{FOCUSED_VM} === 'web-1'"));

        // What a guest wrote is text.
        browser.open_view("#/vm/job-1/console");
        browser.until_shows(".xterm-rows", "<img src=x onerror=alert(1)>");
        assert_eq!(browser.value("document.querySelectorAll('img').length"), json!(0));
        assert_ne!(browser.value("document.title"), json!("owned"));
        assert_eq!(browser.complaints(), [""; 0]);
    });
}

#[test]
fn what_a_guest_asks_the_terminal_moves_no_keyboard() {
    isolated(|bench| {
        prepare(&bench);
        bench.assign(&[bench.vm("a", &TinyGuest::echo())]);
        let _daemon = bench.start();
        let Some(mut browser) = Browser::start(&bench) else { return };
        let other = || {
            let mut command = Command::new(&bench.program);
            command.args(["console", "a", "--tail", "0"]).arg("--runtime-dir").arg(bench.path("run"));
            command
                .env_clear()
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("started")
        };
        let said = |bench: &Bench| bench.client(&["logs", "a"]).stdout;
        let has = |bench: &Bench, words: &[u8]| said(bench).windows(words.len()).any(|part| part == words);

        // Its guest repeats: "where is the cursor?" is what the guest asks, too. It is kept.
        let mut other = other();
        other.stdin.as_mut().expect("piped").write_all(b"\x1b[6nfirst ").expect("taken");
        bench.until("the guest has asked", || has(&bench, b"first "));
        browser.open(&format!("{}#/vm/a/console", forward(bench.path("run/worker.sock"))));
        browser.until_shows(".pen", "types; you read");
        browser.until_shows(".xterm-rows", "first");
        // Who only reads asks for the keyboard by a key, and by nothing that the guest writes.
        browser.value(
            "(() => { const { send } = WebSocket.prototype; globalThis.asked = 0; \
             WebSocket.prototype.send = function (frame) { if (frame[0] === 3) asked += 1; send.call(this, frame); }; })()",
        );
        other.stdin.as_mut().expect("piped").write_all(b"\x1b[6n\x1b[csecond ").expect("taken");
        browser.until_shows(".xterm-rows", "second");
        assert_eq!(browser.value("asked"), json!(0), "nobody pressed a key");
        browser.press("x");
        browser.until("asked === 1");
        drop(other.stdin.take());
        assert!(other.wait().expect("it is ours").success(), "nobody took the pen");

        // With the pen, what is kept is answered by nobody.
        browser.open_view("#/vm/a");
        browser.until_shows("h2", "a");
        browser.open_view("#/vm/a/console");
        browser.until_shows(".pen", "You type");
        browser.until_shows(".xterm-rows", "second");
        browser.type_in("end");
        bench.until("what was typed arrived", || has(&bench, b"end"));
        let kept = String::from_utf8_lossy(&said(&bench)).into_owned();
        assert!(kept.ends_with("second end"), "no answer was typed: {kept:?}");
        assert_eq!(browser.complaints(), [""; 0]);
    });
}

#[test]
fn what_ends_a_guest_is_asked_twice_and_followed() {
    isolated(|bench| {
        prepare(&bench);
        bench.assign(&[bench.vm("web-1", &TinyGuest::power_button())]);
        let _daemon = bench.start();
        let Some(mut browser) = Browser::start(&bench) else { return };
        browser.open(&forward(bench.path("run/worker.sock")));
        browser.until_shows("tr[data-vm=web-1] .phase", "running");
        browser.open_view("#/vm/web-1");
        let stop = "document.querySelector('[data-verb=stop]')";
        browser.until(&format!("{stop} !== null && !{stop}.disabled"));
        // By Tab, as without a mouse.
        browser
            .until("(document.querySelector('.back').focus(), document.activeElement.className === 'back')");
        browser.press("Tab");
        browser.until("document.activeElement.dataset.verb === 'stop'");
        browser.press("Enter");
        browser.until_shows("dialog", "Stop web-1?");
        browser.press("Enter");
        browser.until("document.querySelector('dialog') === null");
        assert_eq!(bench.phases(), ["web-1 running"], "the first answer is to leave it");
        browser.press("Enter");
        browser.until_shows("dialog", "Stop web-1?");
        browser.press("Tab");
        browser.press("Enter");
        browser.until_shows("[data-verb=stop] ~ .said", "stop: ");
        browser.until_shows(".bar .phase", "stopped");
        assert_eq!(bench.phases(), ["web-1 stopped"]);

        // What a desired state would do.
        browser.press("3");
        browser.until("document.activeElement.id === 'state'");
        browser.type_in("{\"vms\":[]}");
        browser.press_ctrl("Enter");
        browser.until_shows(".answer", "remove web-1");
        browser.press("Escape");
        browser.press("4");
        browser.until_shows("dl", "do everything");
        browser.press("?");
        browser.until_shows("dialog", "leave the console's keyboard");
        assert_eq!(browser.complaints(), [""; 0]);
    });
}

#[test]
fn it_is_readable_on_a_telephone_and_in_the_dark() {
    isolated(|bench| {
        prepare(&bench);
        let web = bench.vm("web-1", &TinyGuest::echo());
        bench.assign(&[web, bench.vm("batch-1", &TinyGuest::spin()), churning(&bench, "db-1")]);
        let _daemon = bench.start();
        let Some(mut browser) = Browser::start(&bench) else { return };
        browser.resize(360, 740);
        browser.open(&forward(bench.path("run/worker.sock")));
        browser.until_shows("tr[data-vm=web-1] .phase", "running");
        let back = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)";
        browser.set_colours(Colours::Light);
        browser.until(&format!("{back} > 600"));
        browser.set_colours(Colours::Dark);
        browser.until(&format!("{back} < 150"));
        fill(&mut browser);
        keep(&mut browser, "narrow");
        for view in [
            "#/",
            "#/vm/web-1",
            "#/vm/web-1/console",
            "#/vm/web-1/everything",
            "#/events",
            "#/plan",
            "#/worker",
        ] {
            browser.open_view(view);
            browser.until("document.querySelector('main h2') !== null");
            let is_too_wide = "document.documentElement.scrollWidth > innerWidth";
            assert_eq!(browser.value(is_too_wide), json!(false), "{view} is wider than the screen");
        }
        browser.until_shows(".well", "Everything is as it should be");
        fs::remove_file(bench.path("vms.json")).expect("removed");
        browser.until_shows(".troubles", "are missing");
        assert_eq!(browser.complaints(), [""; 0]);
    });
}

#[test]
fn it_says_when_the_worker_is_away_and_goes_on_with_the_next() {
    isolated(|bench| {
        prepare(&bench);
        bench.assign(&[bench.vm("web-1", &TinyGuest::echo())]);
        bench.leave_guests();
        let mut daemon = bench.start();
        let Some(mut browser) = Browser::start(&bench) else { return };
        browser.open(&format!("{}#/vm/web-1/console", forward(bench.path("run/worker.sock"))));
        browser.until_shows(".pen", "You type");
        browser.type_in("before ");
        browser.until_shows(".xterm-rows", "before");
        daemon.kill();
        browser.until_shows("#banner", "No answer since");
        browser.until_shows(".pen", "trying again");
        bench.stop_guests();
        let _next = bench.start();
        browser.until("document.getElementById('banner').hidden");
        browser.until_shows(".pen", "You type");
        browser.type_in("after");
        browser.until_shows(".xterm-rows", "before after");
        assert_eq!(browser.complaints(), [""; 0]);
    });
}

#[test]
fn its_address_is_for_who_knows_the_token() {
    isolated(|bench| {
        prepare(&bench);
        bench.assign(&[bench.vm("web-1", &TinyGuest::echo())]);
        let address = with_address(&bench, "read_only = true\n");
        let _daemon = bench.start();
        let Some(mut browser) = Browser::start(&bench) else { return };
        browser.open(&format!("https://{address}/"));
        browser.until("document.activeElement.id === 'token'");
        browser.type_in("wrong");
        browser.press("Enter");
        browser.until_shows(".problem", "the token is wrong");
        browser.type_in(crate::web::TOKEN);
        browser.press("Enter");
        browser.until_shows("tr[data-vm=web-1] .phase", "running");
        assert_eq!(browser.value("document.cookie"), json!(""), "no program of a page sees the session");
        browser.open_view("#/vm/web-1/console");
        browser.until_shows(".pen", "For reading only");
        browser.until_shows(".xterm-rows", "ready");
        assert_eq!(browser.value("document.querySelector('[data-verb=stop]').hidden"), json!(true));
        browser.open_view("#/worker");
        browser.until_shows("dl", "look");
        browser.until("(document.querySelector('.bar button').focus(), true)");
        browser.press("Enter");
        browser.until("document.activeElement?.id === 'token'");
        assert_eq!(browser.complaints(), [""; 0]);
    });
}

impl Browser {
    /// Opens the view `hash` as a link of the page does.
    fn open_view(&mut self, hash: &str) {
        self.value(&format!("location.hash = {hash:?}"));
    }
}

#[test]
#[ignore = "a measure, which prints its figures: 200 VMs in the list"]
fn two_hundred_vms_are_listed_with_little_work() {
    isolated(|bench| {
        prepare(&bench);
        let config = fs::read_to_string(bench.path("worker.toml")).expect("read");
        bench.configure(&format!("vms_per_host_process = 50\n{config}"));
        let image = bench.vm("web", &TinyGuest::idle());
        let vms: Vec<Value> = (0..200)
            .map(|number| {
                let mut vm = image.clone();
                vm["id"] = format!("web-{number:03}").into();
                vm
            })
            .collect();
        bench.assign(&vms);
        let _daemon = bench.start();
        let Some(mut browser) = Browser::start(&bench) else { return };
        browser.open(&forward(bench.path("run/worker.sock")));
        let listed = "document.querySelectorAll('tr[data-vm]').length === 200 && \
                      [...document.querySelectorAll('tr[data-vm] .phase')].every((cell) => cell.innerText.includes('running'))";
        browser.until(listed);
        let before = browser.worked();
        let points = "document.querySelector('tr[data-vm=web-199] .curve').getAttribute('points')";
        let (begun, mut changes, mut last) = (Instant::now(), 0, browser.value(points));
        while changes < 10 {
            browser.until(&format!("{points} !== {last}"));
            (changes, last) = (changes + 1, browser.value(points));
        }
        let (span, after) = (begun.elapsed().as_secs_f64(), browser.worked());
        let [all, programs, styles, layout] =
            [0, 1, 2, 3].map(|part| (after[part] - before[part]) / span * 1000.0);
        println!(
            "of each second: {all:.0} ms of work, {programs:.0} ms of it programs, {styles:.0} ms styles, {layout:.0} ms layout; \
             {:.1} s between samples",
            span / f64::from(changes)
        );
        assert_eq!(browser.complaints(), [""; 0]);
    });
}
