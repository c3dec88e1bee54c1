//! The program killed at any moment: at every durable step by name (`fail_points`), at random moments of changing work
//! (`random`), while ports pass from VM to VM (`ports`), and with files damaged while it was away (`damaged_files`). What
//! comes after is always the same: the next one does what is wanted, runs each VM once, and leaves nothing (`leftovers`).

mod damaged_files;
mod fail_points;
mod leftovers;
mod ports;
mod random;
mod rollouts;
mod scene;
