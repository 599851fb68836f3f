mod kit;
mod knowledge;
mod parts;
mod socket;
