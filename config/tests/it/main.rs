//! Configuration files as operators have them.

mod golden;
