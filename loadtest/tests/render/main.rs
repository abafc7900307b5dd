//! What a report looks like, from the front door: every form is made of an example that a small simulation yields.

mod browser;
mod example;
mod forms;
mod python;
