{#- The one state that installs Debian's packages for all parts in the run, because each call of apt takes a second.
    Needs nothing. A part that needs packages includes this .sls, and its state of the packages requires this one. A
    file that has to be there before a package, such as a drop-in, has `require_in` with it. -#}
include:
  - chatmail.modules

chatmail packages of all parts:
  chatmail_package.together: []
