//! A lease book as it is found on disk.

use ipam::{LeaseBook, Pool};

/// Reads and imports a book; what is accepted is exported as it was.
pub(crate) fn book(bytes: &[u8]) {
    let Ok(book) = serde_json::from_slice::<LeaseBook>(bytes) else { return };
    let Ok(empty) = Pool::new(book.subnet) else { return };
    let Ok(pool) = empty.clone().import(&book) else { return };
    let mut exported = pool.export();
    let mut leases = book.leases.clone();
    let key = |lease: &ipam::Lease| (lease.vm.clone(), lease.nic.clone());
    leases.sort_by_key(key);
    exported.leases.sort_by_key(key);
    assert_eq!(exported.leases, leases);
    assert_eq!(empty.import(&exported).expect("its own book").export().leases, leases);
}
