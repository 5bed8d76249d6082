// Material puts each copy button into a <nav> of its own without a name: to a screen reader they are all one (axe-core: landmark-unique).
document$.subscribe(() => document.querySelectorAll(".md-code__nav").forEach((nav, place) => nav.setAttribute("aria-label", `Copy block ${place + 1}`)));
