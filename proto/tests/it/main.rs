//! Tests of the wire formats against captured traffic and against random input.
mod answers;
mod comparer;
mod corpus;
mod frames;
mod objects;
mod routes;
