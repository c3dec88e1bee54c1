//! A real Chromium without a screen, told what to do over a pipe: messages of the DevTools protocol, each ended by a zero.
//!
//! What its page complains of is kept: a test asserts that it is nothing.

#![expect(clippy::print_stdout, reason = "a test that is left out says so")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::{Bench, DEADLINE};

/// Leaves tests with a browser out.
const SKIP: &str = "PROCURATOR_SKIP_BROWSER_TESTS";
/// The names that it goes by.
const PROGRAMS: [&str; 2] = ["chromium", "chromium-browser"];
/// Ctrl among the modifiers of `Input.dispatchKeyEvent`.
const CTRL: u32 = 2;

/// Looks as people set their systems.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Colours {
    Light,
    Dark,
}

/// The browser, with one page.
pub(crate) struct Browser {
    child: Child,
    to: BufWriter<ChildStdin>,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    number: u64,
    complaints: Vec<String>,
}

impl Browser {
    /// Starts one with its things in `bench`; `None` where these tests are to be left out.
    pub(crate) fn start(bench: &Bench) -> Option<Self> {
        if std::env::var_os(SKIP).is_some_and(|value| value == "1") {
            println!("SKIPPED: no browser ({SKIP}=1)");
            return None;
        }
        assert!(web_page::has_terminal(), "this build has no terminal: `cargo xtask test` fetches it");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut found = PROGRAMS
            .iter()
            .filter(|name| path.split(':').any(|folder| Path::new(folder).join(name).is_file()));
        let program = found.next().unwrap_or_else(|| {
            panic!("there is no chromium: `cargo xtask test` installs it, {SKIP}=1 leaves this test out")
        });
        // Its pipes are descriptors 3 and 4, which a shell can give it.
        let script = format!(
            "exec {program} --remote-debugging-pipe --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage \
             --ignore-certificate-errors --no-first-run --lang=en-GB --user-data-dir=\"$1\" about:blank 3<&0 4>&1 0</dev/null 1>&2"
        );
        let log = fs::File::create(bench.path("chromium.log")).expect("created");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(bench.path("chromium")).env("HOME", bench.path("chromium"));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().expect("started");
        let to = BufWriter::new(child.stdin.take().expect("piped"));
        let from = BufReader::new(child.stdout.take().expect("piped"));
        let mut browser = Self { child, to, from, session: None, number: 0, complaints: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.resize(1200, 640);
        Some(browser)
    }

    /// Calls `method` and waits for its answer.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        write!(self.to, "{message}\0").and_then(|()| self.to.flush()).expect("the browser listens");
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(0, &mut bytes).expect("the browser answers");
            let message = bytes.strip_suffix(&[0]).expect("the browser goes on");
            let mut message: Value = serde_json::from_slice(message).expect("JSON");
            if message["id"] == self.number {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].take();
            }
            self.complaints.extend(complaint(&message));
        }
    }

    /// Goes to `address`.
    pub(crate) fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({ "url": address }));
    }

    /// The value of a JavaScript expression in the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", parameters);
        // A page that is just being replaced has no value.
        answer["result"]["value"].take()
    }

    /// The text that is shown of what `selector` finds first, empty where there is nothing.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let expression = format!("document.querySelector({selector:?})?.innerText ?? ''");
        self.value(&expression).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until `expression` is true.
    pub(crate) fn until(&mut self, expression: &str) {
        let start = Instant::now();
        while self.value(expression) != json!(true) {
            if start.elapsed() > DEADLINE {
                let text = self.text("body");
                panic!("still not: {expression}\ncomplaints: {:?}\nthe page:\n{text}", self.complaints);
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits until what `selector` finds first has `words` in it.
    pub(crate) fn until_shows(&mut self, selector: &str, words: &str) {
        self.until(&format!("(document.querySelector({selector:?})?.innerText ?? '').includes({words:?})"));
    }

    /// Presses a key by its name.
    pub(crate) fn press(&mut self, key: &str) {
        self.press_with(key, 0);
    }

    /// Presses a key while Ctrl is held.
    pub(crate) fn press_ctrl(&mut self, key: &str) {
        self.press_with(key, CTRL);
    }

    fn press_with(&mut self, key: &str, modifiers: u32) {
        let codes = BTreeMap::from([
            ("Enter", 13),
            ("Tab", 9),
            ("Escape", 27),
            ("ArrowDown", 40),
            ("ArrowUp", 38),
            ("ArrowRight", 39),
            ("]", 221),
        ]);
        let code =
            codes.get(key).copied().unwrap_or_else(|| u32::from(key.to_ascii_uppercase().as_bytes()[0]));
        let mut event = json!({ "type": "rawKeyDown", "key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers });
        let text = if key == "Enter" { "\r" } else { key };
        if modifiers == 0 && (text.len() == 1) {
            event["type"] = "keyDown".into();
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", event.clone());
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", event);
    }

    /// Presses the keys of `text` one by one.
    pub(crate) fn type_in(&mut self, text: &str) {
        for character in text.chars() {
            self.press(character.encode_utf8(&mut [0; 4]));
        }
    }

    /// Gives the page a screen of another size.
    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    pub(crate) fn set_colours(&mut self, colours: Colours) {
        let value = match colours {
            Colours::Light => "light",
            Colours::Dark => "dark",
        };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// What is shown now, as a PNG in base 64.
    pub(crate) fn picture(&mut self) -> String {
        let picture =
            self.call("Page.captureScreenshot", json!({ "format": "png", "optimizeForSpeed": false }));
        picture["data"].as_str().expect("text").to_owned()
    }

    /// For how long the page has worked by now, in seconds: all of it, and what of that were programs, styles and layout.
    pub(crate) fn worked(&mut self) -> [f64; 4] {
        self.call("Performance.enable", json!({}));
        let answer = self.call("Performance.getMetrics", json!({}));
        let metrics = answer["metrics"].as_array().expect("a list");
        ["TaskDuration", "ScriptDuration", "RecalcStyleDuration", "LayoutDuration"].map(|name| {
            let metric = metrics.iter().find(|metric| metric["name"] == name);
            metric.and_then(|metric| metric["value"].as_f64()).expect("a figure")
        })
    }

    /// What the page has complained of so far: errors of its programs, and what its policy kept it from.
    pub(crate) fn complaints(&mut self) -> &[String] {
        // What was said up to this answer is read by now.
        self.value("1");
        &self.complaints
    }
}

/// What `message` says is wrong with the page. That a question was not answered is none of its faults.
fn complaint(message: &Value) -> Option<String> {
    let parameters = &message["params"];
    match message["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
        "Log.entryAdded" if parameters["entry"]["source"] != "network" => {
            Some(parameters["entry"].to_string())
        }
        _ => None,
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // With the pipe its whole family of processes ends.
        let _ = write!(self.to, "{}\0", json!({ "id": 0, "method": "Browser.close" }))
            .and_then(|()| self.to.flush());
        let start = Instant::now();
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if start.elapsed() > Duration::from_secs(10) {
                let _ = self.child.kill();
            }
            sleep(Duration::from_millis(20));
        }
    }
}
