//! The page that shows a worker in a browser: its files, and what protects a worker from what browsers can be made to ask.
//!
//! A browser sends what any page of any site tells it to. [`judge`] says which requests are the page's own; `Token`,
//! `Sessions` and `Attempts` are what a door needs that is open to a network. All of it is values that a caller asks.
//!
//! What is not here: the interface that the page uses, and who listens where (`admin`).

#![forbid(unsafe_code)]

mod attempts;
mod browser;
mod files;
mod sessions;
mod token;

pub use attempts::{Attempts, network_of};
pub use browser::{Door, Question, Stranger, judge};
pub use files::{has_terminal, protect, router};
pub use sessions::{LIFETIME, SessionKey, Sessions};
pub use token::{Token, TokenError};
