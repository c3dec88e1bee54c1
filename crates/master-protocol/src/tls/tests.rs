//! Handshakes over pipes in memory, with certificates made here.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use vm_model::error_chain;

use super::*;

/// An authority, and certificates from it in a directory.
struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().expect("a key");
        fs::write(directory.path().join("ca.pem"), params.self_signed(&key).expect("signed").pem())
            .expect("written");
        Self { directory, issuer: Issuer::new(params, key) }
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.directory.path().join(file)
    }

    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> TlsFiles {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
        params.distinguished_name.push(DnType::CommonName, "not-this-one");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let files = TlsFiles {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
            authorities: self.path("ca.pem"),
        };
        fs::write(&files.certificate, certificate.pem()).expect("written");
        fs::write(&files.key, key.serialize_pem()).expect("written");
        files
    }
}

fn load(files: &TlsFiles) -> Credentials {
    Credentials::load(files).expect("usable files")
}

/// Shakes hands over a pipe, and sends a byte from the master to the worker: what the worker says, what the master says.
async fn shake(
    worker: &Credentials,
    master: &Credentials,
    name: &str,
) -> (Result<(), String>, Result<String, String>) {
    let (near, far) = duplex(1 << 16);
    let worker_end = async {
        let mut stream = connect(near, worker, name).await.map_err(|problem| error_chain(&problem))?;
        match stream.read_u8().await {
            Ok(_) => Ok(()),
            Err(problem) => Err(refusal_of_ours(&problem, worker)
                .map_or_else(|| error_chain(&problem), |refusal| error_chain(&refusal))),
        }
    };
    let master_end = async {
        let (mut stream, worker) = accept(far, master).await.map_err(|problem| error_chain(&problem))?;
        stream.write_u8(1).await.map_err(|problem| error_chain(&problem))?;
        stream.flush().await.map_err(|problem| error_chain(&problem))?;
        Ok(worker.to_string())
    };
    tokio::join!(worker_end, master_end)
}

#[tokio::test]
async fn each_end_knows_the_other_by_its_certificate() {
    let authority = Authority::new("First");
    let worker = load(&authority.issue("worker-1", |_| {}));
    let master = load(&authority.issue("master.example.org", |_| {}));
    let (at_worker, at_master) = shake(&worker, &master, "master.example.org").await;
    assert_eq!(at_worker, Ok(()));
    assert_eq!(at_master.as_deref(), Ok("worker-1"), "the DNS name counts, not the common name");
}

#[tokio::test]
async fn a_master_can_be_known_by_its_address() {
    let authority = Authority::new("First");
    let worker = load(&authority.issue("worker-1", |_| {}));
    let master = load(&authority.issue("10.9.0.1", |_| {}));
    assert_eq!(shake(&worker, &master, "10.9.0.1").await.0, Ok(()));
    let said = shake(&worker, &master, "10.9.0.2").await.0.expect_err("another address");
    assert!(said.contains("\"10.9.0.2\" was expected"), "{said}");
}

#[tokio::test]
async fn a_common_name_serves_where_there_is_no_dns_name() {
    let authority = Authority::new("First");
    let files = authority.issue("worker-9", |params| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(DnType::CommonName, "Worker-9");
    });
    let master = load(&authority.issue("master", |_| {}));
    assert_eq!(shake(&load(&files), &master, "master").await.1.as_deref(), Ok("worker-9"));
    let nameless = authority.issue("x", |params| {
        params.subject_alt_names.clear();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Jane Doe");
    });
    let said = shake(&load(&nameless), &master, "master").await.1.expect_err("no worker");
    assert!(said.contains("certificate of \"Jane Doe\"") && said.contains("is no worker's"), "{said}");
}

#[tokio::test]
async fn a_master_of_another_name_or_authority_is_refused_with_its_name() {
    let (first, second) = (Authority::new("First"), Authority::new("Second"));
    let worker = load(&first.issue("worker-1", |_| {}));
    let master = load(&first.issue("backup.example.org", |_| {}));
    let (at_worker, at_master) = shake(&worker, &master, "master.example.org").await;
    let said = at_worker.expect_err("another name");
    assert!(said.contains("certificate of \"backup.example.org\", issued by \"CN=First\""), "{said}");
    assert!(said.contains("\"master.example.org\" was expected"), "{said}");
    let said = at_master.expect_err("the worker left");
    assert!(said.contains("did not accept") && said.contains("backup.example.org.pem"), "{said}");
    let stranger = load(&second.issue("master.example.org", |_| {}));
    let said = shake(&worker, &stranger, "master.example.org").await.0.expect_err("another authority");
    assert!(said.contains("issued by \"CN=Second\""), "{said}");
    assert!(said.contains("none of the authorities in") && said.contains("ca.pem"), "{said}");
}

#[tokio::test]
async fn a_worker_that_is_refused_hears_which_certificate_it_is() {
    let (first, second) = (Authority::new("First"), Authority::new("Second"));
    let master = load(&first.issue("master", |_| {}));
    let expired = first.issue("worker-1", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let (at_worker, at_master) = shake(&load(&expired), &master, "master").await;
    let dates = "valid from 2020-01-01T00:00:00Z to 2021-01-01T00:00:00Z";
    for said in [at_worker.expect_err("expired"), at_master.expect_err("expired")] {
        assert!(said.contains(dates) && said.contains("\"worker-1\""), "{said}");
    }
    // Swapped: it may serve, and not ask.
    let for_servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let (at_worker, at_master) = shake(&load(&first.issue("worker-2", for_servers)), &master, "master").await;
    assert!(at_worker.expect_err("swapped").contains("worker-2.pem"));
    assert!(at_master.expect_err("swapped").contains("certificate of \"worker-2\""));
    let mut foreign = second.issue("worker-3", |_| {});
    foreign.authorities = first.path("ca.pem");
    let (at_worker, at_master) = shake(&load(&foreign), &master, "master").await;
    assert!(at_worker.expect_err("another authority").contains("worker-3.pem"));
    assert!(at_master.expect_err("another authority").contains("none of the authorities in"));
}

#[tokio::test]
async fn who_speaks_no_tls_gets_nothing() {
    let authority = Authority::new("First");
    let master = load(&authority.issue("master", |_| {}));
    let (mut near, far) = duplex(1 << 10);
    near.write_all(b"\0\0\0\x10{\"type\":\"hello\"}").await.expect("it fits");
    let said = error_chain(&accept(far, &master).await.map(drop).expect_err("no TLS"));
    assert!(said.contains("the TLS handshake failed"), "{said}");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new("First");
    let (good, other) = (authority.issue("worker-1", |_| {}), authority.issue("worker-2", |_| {}));
    let said = |files: &TlsFiles| error_chain(&Credentials::load(files).expect_err("unusable"));
    let with = |change: fn(&mut TlsFiles, &Path)| {
        let mut files = good.clone();
        change(&mut files, authority.directory.path());
        files
    };
    let missing = said(&with(|files, directory| files.key = directory.join("gone.key")));
    assert!(missing.contains("cannot read") && missing.contains("gone.key"), "{missing}");
    let swapped = said(&with(|files, _| std::mem::swap(&mut files.certificate, &mut files.key)));
    assert!(swapped.contains("worker-1.key holds no usable certificate"), "{swapped}");
    let mismatch = said(&TlsFiles { key: other.key.clone(), ..good.clone() });
    assert!(mismatch.contains("worker-2.key does not belong to the certificate in"), "{mismatch}");
    assert!(mismatch.contains("certificate of \"worker-1\""), "{mismatch}");
    fs::write(authority.path("ca.pem"), "nothing").expect("written");
    assert!(
        said(&good).contains("ca.pem holds no usable certificate in PEM form: there is none"),
        "{}",
        said(&good)
    );
}

#[test]
fn a_key_that_does_not_fit_yet_is_waited_for() {
    let authority = Authority::new("authority");
    let files = authority.issue("worker-1", |_| {});
    let old_key = std::fs::read(&files.key).expect("there");
    let renewed = authority.issue("worker-1", |_| {});
    let new_key = std::fs::read(&renewed.key).expect("there");
    std::fs::write(&renewed.key, old_key).expect("written");
    assert!(CredentialStore::open(renewed.clone()).is_err());
    let (store, facts) = CredentialStore::open_unmatched(renewed.clone()).expect("the certificate is one");
    assert_eq!(facts.dns_names, ["worker-1"]);
    let said = store.current().expect_err("they do not fit").to_string();
    assert!(said.contains("does not belong to the certificate"), "{said}");
    std::fs::write(&renewed.key, new_key).expect("written");
    assert_eq!(store.current().expect("they fit").facts(), &facts);
}

#[test]
fn changed_files_are_read_again_and_unusable_ones_change_nothing() {
    let authority = Authority::new("First");
    let files = authority.issue("worker-1", |params| params.not_after = date_time_ymd(2090, 1, 1));
    let store = CredentialStore::open(files.clone()).expect("usable");
    let first = store.current().expect("usable");
    assert!(std::sync::Arc::ptr_eq(&first, &store.current().expect("usable")), "nothing is read for nothing");
    let key = fs::read(&files.key).expect("readable");
    authority.issue("worker-1", |params| params.not_after = date_time_ymd(2091, 1, 1));
    let new_key = fs::read(&files.key).expect("readable");
    fs::write(&files.key, key).expect("written");
    assert_eq!(store.current().expect("usable").facts(), first.facts(), "the key is still the one before");
    let said = error_chain(&store.reload().expect_err("they do not fit"));
    assert!(said.contains("does not belong to"), "{said}");
    fs::write(&files.key, new_key).expect("written");
    assert!(store.current().expect("usable").facts().not_after > first.facts().not_after);
    let expired = authority.issue("worker-1", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let said = error_chain(
        &store.current().expect("usable").check_dates(vm_model::Timestamp::now()).expect_err("expired"),
    );
    assert!(said.contains("worker-1.pem is not valid at") && said.contains("2021-01-01T00:00:00Z"), "{said}");
    assert_eq!(expired, files);
}
