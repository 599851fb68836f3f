mod knowledge;
mod parts;
mod socket;
