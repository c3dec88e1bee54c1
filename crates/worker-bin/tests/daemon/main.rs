//! The program itself, run as it is on real KVM in namespaces of its own with tiny guests: how it starts, refuses,
//! ends and comes back.

mod api;
mod assignments;
mod bench;
mod browser;
mod by_hand;
mod certificates;
mod changing;
mod clients;
mod console;
mod fetching;
mod figures;
mod full_disk;
mod host_network;
mod hostile_master;
mod isolation;
mod killing;
mod local_verbs;
mod mastered;
mod networks;
mod operating;
mod outliving;
mod overtaking;
mod page;
mod panics;
mod prometheus;
mod refusals;
mod running;
mod signals;
mod ssh;
mod standard_error;
mod terminal;
mod two_masters;
mod under_way;
mod upgrade;
mod web;
