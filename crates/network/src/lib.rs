//! Links, addresses, Services in nf_tables, DNS.
