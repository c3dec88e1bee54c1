//! Certificates that do not fit, of either end, and their replacement while both programs run.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use serde_json::json;
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};
use crate::mastered::{Master, WORKER, follow};

/// As the worker dials it.
const MASTER: &str = "127.0.0.1";

/// Somebody who issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// How a certificate differs from one that fits.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// It was valid once.
    Expired,
    /// It is for the other end: for a server where a client needs one, and the other way round.
    Swapped,
    /// It names somebody else.
    OtherName,
}

/// Where certificates of both ends lie.
struct Place(PathBuf);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate of `name` with its key, both in PEM form.
    fn issue(&self, name: &str, purpose: ExtendedKeyUsagePurpose, fault: Fault) -> (String, String) {
        let other = |purpose| match purpose {
            ExtendedKeyUsagePurpose::ServerAuth => ExtendedKeyUsagePurpose::ClientAuth,
            _ => ExtendedKeyUsagePurpose::ServerAuth,
        };
        let (name, purpose) = match fault {
            Fault::None | Fault::Expired => (name, purpose),
            Fault::Swapped => (name, other(purpose)),
            Fault::OtherName => ("somebody-else", purpose),
        };
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![purpose];
        if matches!(fault, Fault::Expired) {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("signed").pem(), key.serialize_pem())
    }
}

impl Place {
    fn of(bench: &Bench) -> Self {
        let place = Self(bench.path("master/tls"));
        fs::create_dir_all(&place.0).expect("made");
        fs::create_dir_all(bench.path("master/desired")).expect("made");
        place
    }

    fn trust(&self, authority: &Authority) {
        replace(&self.0.join("ca.pem"), &authority.certificate);
    }

    fn give_worker(&self, authority: &Authority, fault: Fault) {
        self.put(WORKER, authority.issue(WORKER, ExtendedKeyUsagePurpose::ClientAuth, fault));
    }

    fn give_master(&self, authority: &Authority, fault: Fault) {
        self.put("master", authority.issue(MASTER, ExtendedKeyUsagePurpose::ServerAuth, fault));
    }

    /// The key last, as the documentation says.
    fn put(&self, end: &str, (certificate, key): (String, String)) {
        replace(&self.0.join(end).with_extension("pem"), &certificate);
        replace(&self.0.join(end).with_extension("key"), &key);
    }
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("written");
    fs::rename(new, path).expect("replaced");
}

/// Waits until there is no link to the master, for a reason that has all these words.
fn refused_with(bench: &Bench, words: &[&str]) {
    let mut problem = String::new();
    bench.until(&format!("the link is refused with {words:?}"), || {
        let status = bench.status();
        problem = status["master"]["problem"].as_str().unwrap_or(&problem).to_owned();
        words.iter().all(|word| problem.contains(word))
    });
}

fn connected(bench: &Bench) {
    bench.until("there is a link", || bench.status()["master"]["state"] == "connected");
}

#[test]
fn a_workers_certificate_is_refused_in_words_until_it_fits() {
    isolated(|bench| {
        let (right, wrong) = (Authority::new("Right"), Authority::new("Wrong"));
        let place = Place::of(&bench);
        place.trust(&right);
        place.give_master(&right, Fault::None);
        place.give_worker(&right, Fault::Expired);
        let mut master = Master::start(&bench.path("master"), 0);
        follow(&bench, &master);
        let a = bench.vm("a", &TinyGuest::power_button());
        master.desire(&json!({ "vms": [a] }));
        bench.assign(&[]);
        let _daemon = bench.start();
        refused_with(&bench, &["worker-1.pem is not valid", "2021-01-01T00:00:00Z"]);
        place.give_worker(&right, Fault::Swapped);
        refused_with(&bench, &["did not accept", "worker-1.pem", "Right"]);
        place.give_worker(&wrong, Fault::None);
        refused_with(&bench, &["did not accept", "worker-1.pem", "Wrong"]);
        assert!(bench.phases().is_empty());
        place.give_worker(&right, Fault::None);
        bench.until("the VM runs", || bench.phases() == ["a running"]);

        // A connection outlives its certificates.
        place.give_worker(&right, Fault::Expired);
        let mut paused = a;
        paused["desired"] = "paused".into();
        master.desire(&json!({ "vms": [paused] }));
        bench.until("it is told on", || bench.phases() == ["a paused"]);
        master.end();
    });
}

#[test]
fn a_masters_certificate_is_refused_in_words_until_it_fits() {
    isolated(|bench| {
        let (right, wrong) = (Authority::new("Right"), Authority::new("Wrong"));
        let place = Place::of(&bench);
        place.trust(&right);
        place.give_worker(&right, Fault::None);
        place.give_master(&right, Fault::OtherName);
        let mut master = Master::start(&bench.path("master"), 0);
        follow(&bench, &master);
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let _daemon = bench.start();
        bench.until("the file's VM runs", || bench.phases() == ["a running"]);
        refused_with(&bench, &["somebody-else", MASTER]);
        place.give_master(&right, Fault::Swapped);
        refused_with(&bench, &["the other end shows", MASTER, "is not accepted"]);
        place.give_master(&right, Fault::Expired);
        refused_with(&bench, &["the other end shows", MASTER, "2021-01-01T00:00:00Z"]);
        place.give_master(&wrong, Fault::None);
        refused_with(&bench, &["Wrong", "none of the authorities in", "ca.pem"]);
        place.give_master(&right, Fault::None);
        connected(&bench);

        // Both ends change their authority while they run: the next connection is by the new one.
        place.trust(&wrong);
        place.give_worker(&wrong, Fault::None);
        place.give_master(&wrong, Fault::None);
        let port = master.address.port();
        master.end();
        bench.until("the loss is seen", || bench.status()["master"]["state"] != "connected");
        let mut master = Master::start(&bench.path("master"), port);
        connected(&bench);
        assert_eq!(bench.phases(), ["a running"]);
        master.end();
    });
}
