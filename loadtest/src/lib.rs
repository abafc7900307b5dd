//! How much load does a server of a language model bear, and what do its users feel meanwhile?
//!
//! A [`plan::Schedule`] says what is to be sent and when; a client sends it, open loop, whatever the server does; every answer
//! becomes a [`record::Record`], whose latency counts from the *intended* start: a server that stands still for two seconds is
//! seen by all who would have asked meanwhile, not only by those who had. Measures add records up, a [`report::Report`] is what
//! is written down.
//!
//! Start with [`plan`], then [`record`] and [`report`].

pub mod compare;
pub mod plan;
pub mod record;
pub mod render;
pub mod report;
