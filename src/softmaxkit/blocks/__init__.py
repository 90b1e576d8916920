"""What units are built of, in Amaranth: row streams, pipelines, arithmetic and storage. They know no method."""
