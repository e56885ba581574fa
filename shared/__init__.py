"""What both sides know: rules, values, ports, settings; nothing here draws, serves or chooses."""
