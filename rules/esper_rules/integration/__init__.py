"""ESP5, contracts between network, masks, buffer and trainer."""
