//! A web server of a directory's files, which may be told to misbehave.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, thread};

/// What is done with requests for archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// As asked.
    Good,
    /// Every answer ends after so many bytes of what was asked for.
    Cuts(usize),
    /// As before, and ranges are not known.
    CutsWithoutRanges(usize),
    /// Every answer stops after so many bytes of what was asked for, until it is to behave otherwise.
    Holds(usize),
    /// All is answered with this status.
    Status(u16),
    /// All is sent to the same path of another server.
    Redirects(u16),
}

/// A server on a port of its own. Ends with the test's process.
#[derive(Debug)]
pub struct CacheServer {
    /// Where it listens on the loopback interface.
    pub port: u16,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Requests,
}

/// From which bytes on each path was asked for.
type Requests = Arc<Mutex<BTreeMap<String, Vec<usize>>>>;

impl CacheServer {
    /// A server of the files in `directory`, in the network of the thread that starts it.
    ///
    /// # Panics
    ///
    /// Where there is no port.
    #[must_use]
    pub fn start(directory: &Path, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let requests = Requests::default();
        let behaviour = Arc::new(Mutex::new(behaviour));
        let (counted, told, directory) = (requests.clone(), behaviour.clone(), directory.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (directory, behaviour) = (directory.clone(), told.clone());
                let session = Session { directory, behaviour, requests: counted.clone() };
                thread::spawn(move || session.serve(stream));
            }
        });
        Self { port, behaviour, requests }
    }

    /// From now on it behaves so, and is asked nothing yet.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The first byte of what was asked for of `path`.
    ///
    /// # Panics
    ///
    /// Where it was not asked for.
    #[must_use]
    pub fn least_offset(&self, path: &str) -> usize {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests[&format!("/{path}")].iter().min().expect("it was asked for")
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How often something was asked for whose path begins with `prefix`.
    #[must_use]
    pub fn requests(&self, prefix: &str) -> usize {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(_, asked)| asked.len()).sum()
    }
}

struct Session {
    directory: PathBuf,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Requests,
}

impl Session {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
        let mut writer = stream;
        while let Some((path, from)) = request(&mut reader) {
            let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            requests.entry(path.clone()).or_default().push(from);
            drop(requests);
            if !self.answer(&mut writer, &path, from) {
                return;
            }
        }
    }

    /// Answers; whether the connection goes on.
    fn answer(&self, writer: &mut TcpStream, path: &str, from: usize) -> bool {
        let behaviour = if path.starts_with("/nar/") { *self.told() } else { Behaviour::Good };
        let (mut from, mut most) = (from, usize::MAX);
        match behaviour {
            Behaviour::Good => {}
            Behaviour::Cuts(count) | Behaviour::Holds(count) => most = count,
            Behaviour::CutsWithoutRanges(count) => (most, from) = (from + count, 0),
            Behaviour::Status(status) => {
                return write!(writer, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").is_ok();
            }
            Behaviour::Redirects(port) => {
                let head = "HTTP/1.1 302 There\r\nContent-Length: 0\r\n";
                return write!(writer, "{head}Location: http://127.0.0.1:{port}{path}\r\n\r\n").is_ok();
            }
        }
        let Ok(content) = fs::read(self.directory.join(path.trim_start_matches('/'))) else {
            return write!(writer, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").is_ok();
        };
        let (from, rest) = (from.min(content.len()), &content[from.min(content.len())..]);
        let head = if from > 0 {
            let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            format!("HTTP/1.1 206 Part\r\nContent-Range: {range}\r\nContent-Length: {}\r\n\r\n", rest.len())
        } else {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", rest.len())
        };
        let sent = &rest[..rest.len().min(most)];
        let is_sent = writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(sent)).is_ok();
        while is_sent && matches!(behaviour, Behaviour::Holds(_)) && *self.told() == behaviour {
            thread::sleep(Duration::from_millis(10));
        }
        is_sent && sent.len() == rest.len()
    }

    fn told(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path that is asked for, and from which byte on.
fn request(reader: &mut impl BufRead) -> Option<(String, usize)> {
    let (mut path, mut from) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Some((path?, from));
        }
        if let Some(asked) = line.strip_prefix("GET ") {
            path = asked.split(' ').next().map(str::to_owned);
        } else if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok()?;
        }
    }
}
