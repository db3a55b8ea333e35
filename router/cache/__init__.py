"""A shared HTTP cache (RFC 9111): pure rules over heads and bodies; the traffic package asks them and stores.

`http_date` and `cache_control` read what peers wrote, `stored` says how old an answer is and how long it is good,
`rules` what may be kept and what it may answer, `ranges` cuts parts out of it, `store` keeps it within a bound,
`cache_status` tells the client what happened (RFC 9211). `now_ms` is always passed in: milliseconds since the epoch.
"""
