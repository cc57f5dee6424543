"""The console: an account's keys, money, usage, members and settings; and for operators the gateway's."""
