"""What an audit states: findings, spans, verdicts and the report that carries them. No libcst, no torch."""
