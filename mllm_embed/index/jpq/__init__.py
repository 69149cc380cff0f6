"""Indexes of product codes whose scores were trained together with the queries that ask them (JPQ)."""
